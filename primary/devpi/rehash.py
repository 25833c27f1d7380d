"""A weak password hash (an imported one) is replaced when its user logs in with the password."""

from __future__ import annotations

from attrs import define
from sqlalchemy import Connection

from cluster.auth.passwords import hash_password
from cluster.durable import SecretBlobs
from cluster.log.changes import Change, Kind
from cluster.model import User
from cluster.state import queries
from cluster.threads import Runner
from primary.writer import Writer


@define
class PasswordUpgrade:
    """Stores a stronger hash of the same password; `Identity.weak` on a primary."""

    _writer: Writer
    _blobs: SecretBlobs
    _hashers: Runner

    async def upgrade(self, user: User, password: str) -> None:
        """Replace the hash of `user`, whose password was found to be `password`.

        Nothing happens if the user has got another password in the meantime. Login tokens that
        were made for the old hash end.
        """
        digest = await self._hashers.run(self._store, password)
        # Who logs in waits for no replica: both hashes are of the same password.
        await self._writer.write(user.name, lambda c: _decide(c, user, digest), confirmed=False)

    def _store(self, password: str) -> str:
        return self._blobs.add(hash_password(password).encode())


def _decide(connection: Connection, user: User, digest: str) -> list[Change]:
    now = queries.user(connection, user.name)
    if now is None or now.password != user.password:
        return []
    payload = {"user": user.name, "password": digest, "options": dict(now.options)}
    return [Change(Kind.USER_SET, payload)]
