"""The identity of the log that a replica follows, kept in its state folder."""

from __future__ import annotations

from pathlib import Path

import orjson

from cluster.durable import write_durably
from cluster.web.status import LogIdentity


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
