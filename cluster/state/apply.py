"""The fold: `apply` is the only way from entries of the change log to state.

Deterministic: no clock, no randomness, no upstream, nothing but the entry and the tables. So
all nodes at one serial hold the same rows, and a replay from 0 gives them again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final

import orjson
from sqlalchemy import Connection, delete, select, update
from sqlalchemy.exc import NoResultFound

from cluster.errors import LogError
from cluster.log import changelog
from cluster.log.changes import Entry, Kind
from cluster.log.driver import WRONG_VALUES, is_closed
from cluster.names import normalize
from cluster.state import nodes, releases, schema
from cluster.state.rows import (
    Touched,
    canonical,
    remove_files,
    set_files,
    touch_project,
    update_project,
    upsert,
)

# Not projects: the serial of a page must never go backwards.
_HELD_BY_INDEX: Final = (
    schema.files, schema.listing, schema.releases, schema.docs, schema.toxresults, schema.staged,
    schema.removed,
)  # fmt: skip


_MALFORMED: Final = (KeyError, TypeError, ValueError, AttributeError, NoResultFound)


def apply(connection: Connection, entry: Entry, touched: Touched) -> None:
    """Bring one entry into the state; raises LogError when its payload is not of its kind."""
    try:
        if "stage" in entry.payload and entry.kind in releases.STAGEABLE:
            releases.stage(connection, entry)
        else:
            _APPLY[entry.kind](connection, entry, touched)
    except (*_MALFORMED, *WRONG_VALUES) as error:
        if is_closed(error):
            raise
        raise LogError(f"entry {entry.serial} ({entry.kind}) is malformed: {error!r}") from error


def _epoch_started(connection: Connection, entry: Entry, touched: Touched) -> None:
    payload = entry.payload
    row = {"epoch": entry.epoch, "serial": entry.serial, "log": payload["log"]}
    proof = {"node": payload.get("node"), "proof": payload.get("proof")}
    upsert(connection, schema.epochs, [{**row, "key": payload["key"], **proof}])
    touched.indexes = True


def _user_set(connection: Connection, entry: Entry, touched: Touched) -> None:
    body = canonical({k: entry.payload[k] for k in ("options", "password") if k in entry.payload})
    row = {"name": entry.payload["user"], "body": body, "serial": entry.serial}
    upsert(connection, schema.users, [row])
    touched.indexes = True


def _user_removed(connection: Connection, entry: Entry, touched: Touched) -> None:
    user = entry.payload["user"]
    connection.execute(delete(schema.users).where(schema.users.c.name == user))
    connection.execute(delete(schema.tokens).where(schema.tokens.c.user == user))
    touched.indexes = True


def _token_added(connection: Connection, entry: Entry, touched: Touched) -> None:
    payload = entry.payload
    body = {key: value for key, value in payload.items() if key not in ("token", "user")}
    row = {"id": payload["token"], "user": payload["user"], "body": canonical(body)}
    upsert(connection, schema.tokens, [{**row, "serial": entry.serial}])
    touched.indexes = True


def _token_removed(connection: Connection, entry: Entry, touched: Touched) -> None:
    connection.execute(delete(schema.tokens).where(schema.tokens.c.id == entry.payload["token"]))
    touched.indexes = True


def _index_set(connection: Connection, entry: Entry, touched: Touched) -> None:
    row = {
        "name": entry.payload["index"],
        "type": entry.payload["type"],
        "body": canonical(entry.payload["options"]),
        "secrets": entry.payload.get("secrets"),
        "serial": entry.serial,
    }
    upsert(connection, schema.indexes, [row])
    touched.indexes = True


def _index_removed(connection: Connection, entry: Entry, touched: Touched) -> None:
    index = entry.payload["index"]
    connection.execute(delete(schema.indexes).where(schema.indexes.c.name == index))
    for table in _HELD_BY_INDEX:
        connection.execute(delete(table).where(table.c.index_name == index))
    connection.execute(
        update(schema.projects)
        .where(schema.projects.c.index_name == index)
        .values(present=0, serial=entry.serial, status=b"{}", bare_versions=b"[]")
    )
    _touch_heirs(connection, entry)
    touched.removed.add(index)
    touched.indexes = True


def _touch_heirs(connection: Connection, entry: Entry) -> None:
    """A page that loses a base must not go back to the serial it had before that base came."""
    table = schema.indexes
    rows = connection.execute(select(table.c.name, table.c.body)).all()
    heirs = [
        r.name for r in rows if entry.payload["index"] in orjson.loads(r.body).get("bases", ())
    ]
    statement = update(table).where(table.c.name.in_(heirs)).values(serial=entry.serial)
    connection.execute(statement)


def _mirror_project(connection: Connection, entry: Entry, touched: Touched) -> None:
    payload = entry.payload
    touch_project(connection, entry, touched)
    facts: dict[str, Any] = {}
    if "status" in payload:
        facts["status"] = canonical(payload["status"])
    if "bare_added" in payload or "bare_removed" in payload:
        bare = set(_bare_versions(connection, payload)) - set(payload.get("bare_removed", ()))
        facts["bare_versions"] = canonical(sorted(bare | set(payload.get("bare_added", ()))))
    if facts:
        update_project(connection, entry, **facts)
    remove_files(connection, entry, payload.get("removed", ()))
    set_files(connection, entry, payload.get("files", ()))


def _bare_versions(connection: Connection, payload: Mapping[str, Any]) -> list[str]:
    table = schema.projects
    statement = select(table.c.bare_versions).where(
        table.c.index_name == payload["index"], table.c.name == payload["project"]
    )
    versions: list[str] = orjson.loads(connection.execute(statement).scalar_one())
    return versions


def _mirror_listing(connection: Connection, entry: Entry, touched: Touched) -> None:
    payload = entry.payload
    for present, names in ((0, payload.get("removed", ())), (1, payload.get("added", ()))):
        rows = [
            {
                "index_name": payload["index"],
                "name": normalize(name),
                "display": name,
                "present": present,
                "serial": entry.serial,
            }
            for name in names
        ]
        upsert(connection, schema.listing, rows)
    touched.lists.add(payload["index"])


_APPLY: Final[Mapping[Kind, Callable[[Connection, Entry, Touched], None]]] = {
    Kind.EPOCH_STARTED: _epoch_started,
    Kind.USER_SET: _user_set,
    Kind.USER_REMOVED: _user_removed,
    Kind.INDEX_SET: _index_set,
    Kind.INDEX_REMOVED: _index_removed,
    Kind.PROJECT_REGISTERED: releases.project_registered,
    Kind.PROJECT_REMOVED: releases.project_removed,
    Kind.PROJECT_STATUS: releases.project_status,
    Kind.RELEASE_SET: releases.release_set,
    Kind.RELEASE_REMOVED: releases.release_removed,
    Kind.FILE_ADDED: releases.file_added,
    Kind.FILE_REMOVED: releases.file_removed,
    Kind.FILE_YANKED: releases.file_yanked,
    Kind.DOCS_SET: releases.docs_set,
    Kind.TOXRESULT_ADDED: releases.toxresult_added,
    Kind.STAGE_PUBLISHED: releases.stage_published,
    Kind.STAGE_DROPPED: releases.stage_dropped,
    Kind.TOKEN_ADDED: _token_added,
    Kind.TOKEN_REMOVED: _token_removed,
    Kind.NODE_KEY: nodes.node_key,
    Kind.NODE_REVOKED: nodes.node_revoked,
    Kind.MIRROR_PROJECT: _mirror_project,
    Kind.MIRROR_LISTING: _mirror_listing,
}


def digest(connection: Connection) -> str:
    """SHA-256 (hex) over all rows in canonical order: equal states have equal digests."""
    total = sha256()
    for table in schema.TABLES:
        keys = list(table.primary_key)
        rows = connection.execution_options(yield_per=1_000).execute(select(table).order_by(*keys))
        for row in rows:
            total.update(repr((table.name, *row)).encode())
    return total.hexdigest()


def rebuild(connection: Connection, progress: Callable[[int], None] = lambda serial: None) -> None:
    """Refill every table by replaying the log from its start, in the caller's transaction."""
    for table in schema.TABLES:
        connection.execute(delete(table))
    for entry in changelog.entries(connection):
        apply(connection, entry, Touched())
        progress(entry.serial)
