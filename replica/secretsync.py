"""Node-only blobs on a replica: password hashes and credentials that log entries only name.

They are here before the entry that names them is applied: so a replica logs users in, and asks
upstreams that want a password, while its primary is away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256

from attrs import define
from twisted.logger import Logger

from cluster.durable import SecretBlobs
from cluster.errors import LogError, PymirrorError
from cluster.protocol import SECRET_PATH
from cluster.threads import Runner
from replica.primary_client import PrimaryClient

_KINDS = (b'"kind":"user.set"', b'"kind":"index.set"')
# A quote inside a text is written with a backslash before it, so this is never part of one.
_NAMES = re.compile(rb'"(?:password|secrets)":"([0-9a-f]{64})"')


class LacksSecrets(PymirrorError):
    """Entries name blobs that are not here yet; nothing of them was applied."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"{len(names)} node-only blobs are missing")
        self.names = names


@define
class SecretSync:
    """Fetches from the primary what is missing."""

    _log = Logger()

    _client: PrimaryClient
    _blobs: SecretBlobs
    _threads: Runner

    def require(self, entries: Iterable[bytes]) -> None:
        """Raise LacksSecrets unless all that entries name is here; blocking, for a thread."""
        names = {
            match.decode()
            for raw in entries
            if any(kind in raw for kind in _KINDS)
            for match in _NAMES.findall(raw)
        }
        lacking = self.lacking(names)
        if lacking:
            raise LacksSecrets(lacking)

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Those of these blobs that are not here; blocking, for a thread."""
        return sorted(name for name in names if not self._blobs.has(name))

    async def fetch(self, names: Iterable[str]) -> None:
        """Get blobs from the primary, durable on return.

        Raises Unreachable, LogError. What the primary has no more belongs to a password or an
        option that a later entry replaces: an empty blob, which matches nothing, stands for it.
        """
        for name in names:
            answer = await self._client.ask("GET", f"{SECRET_PATH}/{name}", self._client.headers())
            if answer.status == 410:  # a 404 may be some proxy's
                self._log.warn("the primary has no node-only blob {name} any more", name=name)
                await self._threads.run(self._blobs.lost, name)
                continue
            if answer.status != 200 or sha256(answer.body).hexdigest() != name:
                raise LogError(f"{self._client.url} sends something else for a node-only blob")
            await self._threads.run(self._blobs.add, answer.body)
