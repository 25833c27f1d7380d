"""What is searched of a project: read from the state, never from the log's payloads.

The log says only *what* changed. Reading it from the state makes every step safe to repeat, and
needs no second fold that would have to agree with the first.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from attrs import frozen
from packaging.version import InvalidVersion, Version
from sqlalchemy import Connection, String, bindparam, select, text

from cluster.log.changes import Entry, Kind
from cluster.names import IndexName, NormalizedName, normalize, version_sort_key
from cluster.state import contents
from cluster.state.schema import indexes, projects, releases

Key = tuple[str, str]
"""An index and a normalized project name."""

_SUMMARY_CHARACTERS = 500
_FIELD_CHARACTERS = 2_000
_DESCRIPTION_CHARACTERS = 20_000


@frozen
class Document:
    """What can be found of a project on one index; mirrors give names alone."""

    index: str
    project: str
    version: str
    summary: str
    name: str
    keywords: str = ""
    classifiers: str = ""
    author: str = ""
    description: str = ""

    @property
    def key(self) -> Key:
        """The index and the project."""
        return self.index, self.project


def touched(connection: Connection, entry: Entry) -> Iterator[Key]:
    """The projects whose document may have changed with an entry."""
    payload = entry.payload
    if entry.kind is Kind.MIRROR_LISTING:
        for name in (*payload.get("added", ()), *payload.get("removed", ())):
            yield payload["index"], normalize(name)
    elif entry.kind is Kind.STAGE_PUBLISHED:
        for project in published(connection, payload["index"], entry.serial):
            yield payload["index"], project
    elif "project" in payload:
        yield payload["index"], payload["project"]


def published(connection: Connection, index: str, serial: int) -> list[str]:
    """The projects of an index that changed at `serial` or later.

    `stage.published` does not say what it publishes, and what was staged is no longer kept; but
    every project of it got that serial, or a later one from a change that follows.
    """
    return list(
        connection.execute(
            select(projects.c.name).where(
                projects.c.index_name == index, projects.c.serial >= serial
            )
        ).scalars()
    )


_NEXT = text("""
    SELECT index_name, name FROM (
        SELECT index_name, name FROM projects
        WHERE present = 1 AND (index_name, name) > (:index_name, :name)
        ORDER BY index_name, name LIMIT :limit)
    UNION
    SELECT index_name, name FROM (
        SELECT index_name, name FROM listing
        WHERE present = 1 AND (index_name, name) > (:index_name, :name)
        ORDER BY index_name, name LIMIT :limit)
    ORDER BY index_name, name LIMIT :limit
""")


def keys_after(connection: Connection, key: Key, limit: int) -> list[Key]:
    """The next projects of the whole state in the order of their keys."""
    bound = {"index_name": key[0], "name": key[1], "limit": limit}
    return [(row[0], row[1]) for row in connection.execute(_NEXT, bound)]


def documents(connection: Connection, keys: Iterable[Key]) -> dict[Key, Document | None]:
    """The document of each key as the state has it now; None for a project that is not there."""
    wanted: dict[str, set[str]] = defaultdict(set)
    found: dict[Key, Document | None] = {}
    for index, name in keys:
        wanted[index].add(name)
        found[index, name] = None
    for index, names in wanted.items():
        kind = connection.execute(select(indexes.c.type).where(indexes.c.name == index)).scalar()
        for name, display in _displayed(connection, index, names) if kind else ():
            if kind == "stage":
                found[index, name] = _hosted(connection, index, name, display)
            else:
                found[index, name] = Document(index, name, "", "", display)
    return found


_DISPLAYED = text("""
    SELECT name, display FROM listing
    WHERE index_name = :index AND name IN (SELECT value FROM json_each(:names)) AND present = 1
    UNION ALL
    SELECT name, display FROM projects
    WHERE index_name = :index AND name IN (SELECT value FROM json_each(:names)) AND present = 1
""").bindparams(bindparam("names", type_=String))


def _displayed(connection: Connection, index: str, names: set[str]) -> list[tuple[str, str]]:
    bound = {"index": index, "names": json.dumps(sorted(names))}
    return [(row[0], row[1]) for row in connection.execute(_DISPLAYED, bound)]


def _hosted(connection: Connection, index: str, project: str, display: str) -> Document:
    where = IndexName(index), NormalizedName(project)
    registered = select(releases.c.version).where(
        releases.c.index_name == index, releases.c.project == project
    )
    versions = set(connection.execute(registered).scalars()) or contents.versions(connection, where)
    version = latest(versions)
    metadata = (contents.release(connection, where, version) if version else None) or {}

    def of(key: str, characters: int = _FIELD_CHARACTERS) -> str:
        return flat(metadata.get(key))[:characters]

    return Document(
        index, project, version, of("summary", _SUMMARY_CHARACTERS), display, of("keywords"),
        of("classifiers"),
        " ".join(filter(None, map(of, ("author", "author_email", "maintainer")))),
        of("description", _DESCRIPTION_CHARACTERS),
    )  # fmt: skip


def latest(versions: Iterable[str]) -> str:
    """The newest final release, else the newest of all; empty for no versions."""

    def order(version: str) -> tuple[bool, Any]:
        try:
            final = not Version(version).is_prerelease
        except InvalidVersion:
            final = False
        return final, version_sort_key(version)

    return max(versions, key=order, default="")


def flat(value: Any) -> str:
    """A metadata value as one text: lists are joined, whatever is no text counts as none."""
    if isinstance(value, str):
        return value
    return "\n".join(v for v in value if isinstance(v, str)) if isinstance(value, list) else ""
