"""The identity of the log that a replica follows, kept in its state folder."""

from __future__ import annotations

from pathlib import Path

import orjson

from cluster.durable import write_durably
from cluster.errors import LogError
from cluster.threads import Runner
from cluster.web.status import LogIdentity
from replica.primary_client import PrimaryClient


def read_identity(path: Path) -> LogIdentity | None:
    """The identity of the log that this replica follows, or None before it met its primary."""
    try:
        values = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return LogIdentity(values["log"], values["key"])


def write_identity(path: Path, identity: LogIdentity) -> None:
    """Pin the identity of the log that this replica follows from now on."""
    write_durably(path, orjson.dumps({"log": identity.log, "key": identity.key}))


async def known_identity(
    path: Path, client: PrimaryClient, heavy: Runner, *, is_new: bool
) -> LogIdentity:
    """The identity that is pinned here, or, if the folder is new, the primary's from now on.

    Raises LogError when it is missing, and what `PrimaryClient.identity` raises.
    """
    identity = await heavy.run(read_identity, path)
    if identity is None:
        if not is_new:
            raise LogError(f"{path} is missing: restore it, or start afresh")
        identity = await client.identity()
        # Durable before the first entry: a log is only ever followed under this identity.
        await heavy.run(write_identity, path, identity)
    return identity
