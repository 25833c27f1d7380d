"""Nodes in the state: their keys, the invitations they came by, and who was revoked."""

from __future__ import annotations

from attrs import frozen
from sqlalchemy import Connection, select

from cluster.log.changes import Entry
from cluster.state import schema
from cluster.state.rows import Touched, upsert


@frozen
class KnownNode:
    """A node as the log knows it; `key` (base64) is None for one that never joined by a key.

    `invite` is the invitation that it came by, `serial` the entry that gave it its key, or that
    revoked it if there is none.
    """

    uuid: str
    key: str | None
    name: str | None
    invite: str | None
    revoked: bool
    serial: int


def known(connection: Connection) -> dict[str, KnownNode]:
    """All nodes that the log names, by uuid."""
    rows = connection.execute(select(schema.nodes).order_by(schema.nodes.c.uuid)).all()
    return {
        row.uuid: KnownNode(
            row.uuid, row.key, row.name, row.invite, bool(row.revoked), row.serial
        )
        for row in rows
    }  # fmt: skip


def node_key(connection: Connection, entry: Entry, touched: Touched) -> None:
    """`node.key`: a node joined. It does not end a revocation: that is final for its uuid."""
    payload = entry.payload
    row = {
        "uuid": payload["node"], "key": payload["key"], "name": payload.get("name"),
        "invite": payload.get("invite"), "revoked": 0, "serial": entry.serial,
    }  # fmt: skip
    upsert(connection, schema.nodes, [row], changed=("key", "name", "invite", "serial"))
    touched.indexes = True


def node_revoked(connection: Connection, entry: Entry, touched: Touched) -> None:
    """`node.revoked`: nobody of that uuid is a node any more."""
    row = {
        "uuid": entry.payload["node"], "key": None, "name": None, "invite": None, "revoked": 1,
        "serial": entry.serial,
    }  # fmt: skip
    upsert(connection, schema.nodes, [row], changed=("revoked",))
    touched.indexes = True
