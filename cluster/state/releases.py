"""The part of the fold for what hosted indexes hold: releases, files, docs, tox results.

What goes takes along what hangs on it: a file its tox results; a version's last file the
release; the last release the project (devpi-api §6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import orjson
from attrs import evolve
from sqlalchemy import Connection, Table, delete, select, update

from cluster.log.changes import Entry, Kind
from cluster.log.driver import driver
from cluster.names import display_version
from cluster.state import schema
from cluster.state.rows import (
    Touched,
    bury,
    canonical,
    content_link,
    of_project,
    remove_files,
    set_files,
    touch_project,
    update_project,
    upsert,
    versions_of_files,
)


def project_registered(connection: Connection, entry: Entry, touched: Touched) -> None:
    """A name is taken, maybe before there is any release of it."""
    touch_project(connection, entry, touched)


def project_removed(connection: Connection, entry: Entry, touched: Touched) -> None:
    """A project goes with all that hangs on it."""
    _drop_files(connection, entry, list(versions_of_files(connection, entry)))
    _drop_docs(connection, entry, None)
    connection.execute(delete(schema.releases).where(*of_project(schema.releases, entry)))
    touch_project(connection, entry, touched)
    update_project(connection, entry, present=0, status=b"{}", bare_versions=b"[]")


def project_status(connection: Connection, entry: Entry, touched: Touched) -> None:
    """PEP 792: archived, deprecated, quarantined, or active again."""
    touch_project(connection, entry, touched)
    update_project(connection, entry, status=canonical(entry.payload["status"]))


def release_set(connection: Connection, entry: Entry, touched: Touched) -> None:
    """The metadata of a release; the first part replaces what was there, others add to it."""
    payload = entry.payload
    touch_project(connection, entry, touched)
    known: dict[str, Any] = {}
    if payload.get("part", 1) > 1:
        known = _release(connection, entry) or {}
    row = {
        "index_name": payload["index"],
        "project": payload["project"],
        "version": payload["version"],
        "body": canonical(_joined(known, payload["metadata"])),
        "serial": entry.serial,
    }
    upsert(connection, schema.releases, [row])


def _joined(known: dict[str, Any], pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    for key, value in pairs:
        known[key] = known[key] + value if key in known else value
    return known


def _release(connection: Connection, entry: Entry) -> dict[str, Any] | None:
    table = schema.releases
    body = connection.execute(
        select(table.c.body).where(
            *of_project(table, entry), table.c.version == entry.payload["version"]
        )
    ).scalar()
    return None if body is None else orjson.loads(body)


def release_removed(connection: Connection, entry: Entry, touched: Touched) -> None:
    """A version goes with its files, docs and tox results."""
    version = entry.payload["version"]
    files = versions_of_files(connection, entry)
    _drop_files(connection, entry, [name for name, of in files.items() if _same(of, version)])
    touch_project(connection, entry, touched)
    _drop_release(connection, entry, version)


_IS_HERE: Final = "SELECT 1 FROM files WHERE index_name = ? AND project = ? AND filename = ?"
_UNBURY: Final = "DELETE FROM removed WHERE index_name = ? AND link = ? AND filename = ?"


def file_added(connection: Connection, entry: Entry, touched: Touched) -> None:
    """A distribution file, new or in the place of one of the same name."""
    payload = entry.payload
    place = (payload["index"], payload["project"], payload["file"]["filename"])
    if driver(connection).execute(_IS_HERE, place).fetchone():
        _drop_files(connection, entry, [payload["file"]["filename"]])
    touch_project(connection, entry, touched)
    set_files(connection, entry, [payload["file"]], canonical(payload.get("log", [])))
    _unbury(connection, entry, payload["file"])


def _unbury(connection: Connection, entry: Entry, file: Mapping[str, Any]) -> None:
    digest = file.get("hashes", {}).get("sha256")
    if digest is not None:
        place = (entry.payload["index"], content_link(digest), file["filename"])
        driver(connection).execute(_UNBURY, place)


def file_removed(connection: Connection, entry: Entry, touched: Touched) -> None:
    """A file goes; the last of its version takes the release along.

    It may also be a documentation zip or a test result: they stand beside the files.
    """
    filename = entry.payload["filename"]
    version = versions_of_files(connection, entry).get(filename)
    touch_project(connection, entry, touched)
    _drop_files(connection, entry, [filename])
    for table, name in ((schema.docs, "filename"), (schema.toxresults, "result")):
        _drop_named(connection, entry, table, name)
    left = versions_of_files(connection, entry).values()
    if version is not None and not any(_same(other, version) for other in left):
        _drop_release(connection, entry, display_version(version))
    else:
        _drop_empty_project(connection, entry)


def file_yanked(connection: Connection, entry: Entry, touched: Touched) -> None:
    """PEP 592: files are marked with a reason (maybe empty), or not any more (None)."""
    touch_project(connection, entry, touched)
    table = schema.files
    for filename in entry.payload["filenames"]:
        where = (*of_project(table, entry), table.c.filename == filename)
        body = connection.execute(select(table.c.body).where(*where)).scalar()
        if body is None:
            continue
        file = orjson.loads(body)
        file.pop("yanked", None)
        if entry.payload["yanked"] is not None:
            file["yanked"] = entry.payload["yanked"]
        values = {"body": canonical(file), "serial": entry.serial}
        connection.execute(update(table).where(*where).values(**values))


def docs_set(connection: Connection, entry: Entry, touched: Touched) -> None:
    """The documentation of a release: a zip in the file store."""
    payload, docs = entry.payload, entry.payload["docs"]
    touch_project(connection, entry, touched)
    _drop_docs(connection, entry, payload["version"])
    row = {
        "index_name": payload["index"],
        "project": payload["project"],
        "version": payload["version"],
        "filename": docs["filename"],
        "link": content_link(docs["sha256"]),
        "body": canonical({"sha256": docs["sha256"], "size": docs["size"]}),
        "log": canonical(payload.get("log", [])),
        "serial": entry.serial,
    }
    upsert(connection, schema.docs, [row])


def toxresult_added(connection: Connection, entry: Entry, touched: Touched) -> None:
    """The result of a test run of a file: JSON in the file store."""
    payload, result = entry.payload, entry.payload["result"]
    table = schema.files
    link = connection.execute(
        select(table.c.link).where(
            *of_project(table, entry), table.c.filename == payload["filename"]
        )
    ).scalar_one()
    row = {
        "index_name": payload["index"],
        "project": payload["project"],
        "filename": payload["filename"],
        "result": result["filename"],
        "link": link,
        "body": canonical({"sha256": result["sha256"], "size": result["size"]}),
        "log": canonical(payload.get("log", [])),
        "serial": entry.serial,
    }
    upsert(connection, schema.toxresults, [row])
    touched.projects.add(payload["project"])


def stage(connection: Connection, entry: Entry) -> None:
    """Keep a change for later, as it is."""
    payload = {key: value for key, value in entry.payload.items() if key != "stage"}
    row = {
        "index_name": entry.payload["index"],
        "stage": entry.payload["stage"],
        "serial": entry.serial,
        "kind": entry.kind.value,
        "payload": canonical(payload),
    }
    upsert(connection, schema.staged, [row])


def stage_published(connection: Connection, entry: Entry, touched: Touched) -> None:
    """All changes of a stage happen now, in the order in which they were recorded."""
    for kind, payload in staged_changes(connection, entry.payload["index"], entry.payload["stage"]):
        STAGEABLE[kind](connection, evolve(entry, kind=kind, payload=payload), touched)
    stage_dropped(connection, entry, touched)


def staged_changes(
    connection: Connection, index: str, stage_id: str
) -> list[tuple[Kind, dict[str, Any]]]:
    """The kinds and payloads that wait in a stage of an index, in order."""
    table = schema.staged
    rows = connection.execute(
        select(table.c.kind, table.c.payload)
        .where(table.c.index_name == index, table.c.stage == stage_id)
        .order_by(table.c.serial)
    )
    return [(Kind(row.kind), orjson.loads(row.payload)) for row in rows]


def stage_dropped(connection: Connection, entry: Entry, touched: Touched) -> None:
    """Forget what waits in a stage."""
    table = schema.staged
    connection.execute(
        delete(table).where(
            table.c.index_name == entry.payload["index"], table.c.stage == entry.payload["stage"]
        )
    )


def _same(version: str | None, other: str) -> bool:
    return version is not None and display_version(version) == display_version(other)


def _drop_files(connection: Connection, entry: Entry, filenames: list[str]) -> None:
    for filename in filenames:
        for table, name in ((schema.files, "filename"), (schema.toxresults, "result")):
            where = (*of_project(table, entry), table.c.filename == filename)
            gone = connection.execute(select(table.c.link, table.c[name]).where(*where))
            bury(connection, entry, [(row[0], row[1]) for row in gone])
        _delete_of_file(connection, entry, schema.toxresults, filename)
    remove_files(connection, entry, filenames)


def _delete_of_file(connection: Connection, entry: Entry, table: Table, filename: str) -> None:
    connection.execute(delete(table).where(*of_project(table, entry), table.c.filename == filename))


def _drop_named(connection: Connection, entry: Entry, table: Table, name: str) -> None:
    where = (*of_project(table, entry), table.c[name] == entry.payload["filename"])
    gone = connection.execute(select(table.c.link, table.c[name]).where(*where))
    bury(connection, entry, [(row[0], row[1]) for row in gone])
    connection.execute(delete(table).where(*where))


def _drop_docs(connection: Connection, entry: Entry, version: str | None) -> None:
    table = schema.docs
    where = list(of_project(table, entry))
    if version is not None:
        where.append(table.c.version == version)
    gone = connection.execute(select(table.c.link, table.c.filename).where(*where)).all()
    bury(connection, entry, [(row.link, row.filename) for row in gone])
    connection.execute(delete(table).where(*where))


def _drop_release(connection: Connection, entry: Entry, version: str) -> None:
    table = schema.releases
    _drop_docs(connection, entry, version)
    connection.execute(delete(table).where(*of_project(table, entry), table.c.version == version))
    _drop_empty_project(connection, entry)


def _drop_empty_project(connection: Connection, entry: Entry) -> None:
    for table in (schema.files, schema.releases):
        found = select(table.c.project).where(*of_project(table, entry)).limit(1)
        if connection.execute(found).first() is not None:
            return
    update_project(connection, entry, present=0)


STAGEABLE: Final[Mapping[Kind, Callable[[Connection, Entry, Touched], None]]] = {
    Kind.RELEASE_SET: release_set,
    Kind.FILE_ADDED: file_added,
    Kind.DOCS_SET: docs_set,
}
"""What may wait in a stage."""
