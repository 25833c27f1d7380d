"""The warning that user root has no password yet: in the log, and in the status while it is so."""

from __future__ import annotations

from attrs import define
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cluster.auth.acl import ROOT
from cluster.state import queries
from cluster.state.database import Database
from cluster.state.position import Head
from cluster.state.rows import Touched


@define
class RootPassword:
    """Looks at the start, and whenever users changed."""

    _log = Logger()

    _database: Database
    _from_everywhere: bool
    _is_empty: bool = False

    @property
    def warning(self) -> str | None:
        """What to tell the operator; None when there is a password, or no root."""
        if not self._is_empty:
            return None
        where = "from everywhere" if self._from_everywhere else "from this machine"
        return f"user root has no password: everybody can log in as root {where}; set one"

    def changed(self, head: Head, touched: Touched) -> None:
        """Look again if users may have changed (a `Position` listener)."""
        if touched.indexes:
            looking = Deferred.fromCoroutine(self.look())
            looking.addErrback(lambda failure: self._log.failure("cannot look at root", failure))

    async def look(self) -> None:
        """See whether root has a password; the log hears of it when it has none."""
        root = await self._database.read(lambda c: queries.user(c, ROOT))
        was_empty, self._is_empty = self._is_empty, root is not None and root.password is None
        if self._is_empty and not was_empty:
            self._log.warn("{warning}", warning=self.warning)
