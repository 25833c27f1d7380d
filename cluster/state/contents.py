"""Questions about what hosted indexes hold: releases, links with their logs, docs, tox results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from attrs import frozen
from sqlalchemy import Connection, Table, select

from cluster.model import DistributionFile
from cluster.names import IndexName, NormalizedName, display_version
from cluster.state.schema import docs, files, projects, releases, toxresults

LinkLog = list[dict[str, Any]]
"""devpi's log of a link: who uploaded, overwrote or pushed it, and when (devpi-api §6)."""


@frozen
class HeldFile:
    """A distribution file of an index, and what happened to it there."""

    file: DistributionFile
    log: LinkLog


@frozen
class HeldDocs:
    """The documentation zip of a release; `size` in bytes."""

    version: str
    filename: str
    sha256: str
    size: int
    log: LinkLog


@frozen
class HeldToxResult:
    """The JSON result of one test run; `filename` is the file that was tested, `size` in bytes."""

    filename: str
    result: str
    link: str
    sha256: str
    size: int
    log: LinkLog


Where = tuple[IndexName, NormalizedName]
"""An index and a project on it."""


def held_files(connection: Connection, where: Where, version: str | None = None) -> list[HeldFile]:
    """An index's own files of a project, or of one version of it, sorted by name."""
    statement = select(files.c.body, files.c.log).where(*_of(files, where))
    rows = connection.execute(statement.order_by(files.c.filename))
    held = [HeldFile(DistributionFile(**orjson.loads(r.body)), orjson.loads(r.log)) for r in rows]
    if version is None:
        return held
    return [h for h in held if h.file.version and same_version(h.file.version, version)]


def same_version(one: str, other: str) -> bool:
    """Whether two spellings name one version (PEP 440 where it applies)."""
    return display_version(one) == display_version(other)


def releases_of(connection: Connection, where: Where) -> dict[str, dict[str, Any]]:
    """The metadata of each registered release of a project on an index, by version."""
    rows = connection.execute(select(releases).where(*_of(releases, where)))
    return {row.version: orjson.loads(row.body) for row in rows}


def release(connection: Connection, where: Where, version: str) -> dict[str, Any] | None:
    """The metadata of one registered release, or None."""
    statement = select(releases.c.body).where(
        *_of(releases, where), releases.c.version == display_version(version)
    )
    body = connection.execute(statement).scalar()
    return None if body is None else orjson.loads(body)


def versions(connection: Connection, where: Where) -> set[str]:
    """All versions of a project on an index: registered ones and those of files."""
    known = connection.execute(select(releases.c.version).where(*_of(releases, where))).scalars()
    of_files = [held.file.version for held in held_files(connection, where)]
    return set(known) | {display_version(version) for version in of_files if version}


def docs_of(connection: Connection, where: Where) -> dict[str, HeldDocs]:
    """The documentation of a project on an index, by version."""
    rows = connection.execute(select(docs).where(*_of(docs, where)))
    return {
        row.version: HeldDocs(
            row.version, row.filename, log=orjson.loads(row.log), **orjson.loads(row.body)
        )
        for row in rows
    }


def toxresults_of(
    connection: Connection, where: Where, filename: str | None = None
) -> list[HeldToxResult]:
    """The tox results of a project's files on an index, or of one file, oldest first."""
    statement = select(toxresults).where(*_of(toxresults, where))
    if filename is not None:
        statement = statement.where(toxresults.c.filename == filename)
    rows = connection.execute(statement.order_by(toxresults.c.serial, toxresults.c.result))
    return [
        HeldToxResult(
            row.filename, row.result, row.link, log=orjson.loads(row.log), **orjson.loads(row.body)
        )
        for row in rows
    ]


def display_name(connection: Connection, where: Where) -> str | None:
    """A project's name as its owner writes it; None when the index does not have it."""
    return connection.execute(
        select(projects.c.display).where(*_of(projects, where, "name"), projects.c.present == 1)
    ).scalar()


def _of(table: Table, where: Where, column: str = "project") -> tuple[Any, Any]:
    return table.c.index_name == where[0], table.c[column] == where[1]


def joined_metadata(metadata: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Metadata as the pairs of `release.set`, long texts cut so that each fits into an entry."""
    pairs: list[tuple[str, Any]] = []
    for key, value in metadata.items():
        if isinstance(value, str):
            pieces = [value[i : i + _PIECE] for i in range(0, len(value), _PIECE)]
            pairs += [(key, piece) for piece in pieces or [""]]
        elif isinstance(value, list) and value:
            pairs += [(key, [item]) for item in value]
        else:
            pairs.append((key, value))
    return pairs


# Characters; in JSON one may take six bytes, and an entry holds 65,535.
_PIECE = 8_000
