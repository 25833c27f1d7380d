"""What `devpi-export` wrote: ``dataindex.json`` and a folder of files per index.

Dump versions 1 and 2 are read (devpi-server from 2.0 to 6.x). What older servers wrote another
way is brought into one form here, as devpi-import does it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

from attrs import evolve, field, frozen

from cluster.errors import InvalidRequest
from cluster.files.sink import HASH_NAMES
from cluster.importing.jsonstream import Cursor
from cluster.names import normalize, version_from_filename

RELEASE_FILE: Final = "releasefile"
DOCS: Final = "doczip"
TOX_RESULT: Final = "toxresult"
_DOCS_SUFFIX = ".doc.zip"
_PIECE = 1 << 20


@frozen
class DumpedUser:
    """A user of the dump with devpi's keys, password hash included."""

    name: str
    config: Mapping[str, Any]


@frozen
class DumpedIndex:
    """An index of the dump: its name and what devpi calls its indexconfig."""

    name: str
    options: Mapping[str, Any]


@frozen
class DumpedProject:
    """A project's name on an index; that there are releases is said by those."""

    index: str
    name: str


@frozen
class DumpedRelease:
    """The metadata of one version."""

    index: str
    project: str
    version: str
    metadata: Mapping[str, Any]


@frozen
class DumpedFile:
    """A file below the dump's folder at `path`.

    `kind` is RELEASE_FILE, DOCS or TOX_RESULT. `hashes` are those that the dump states, maybe
    none. `tested` is the name of the file that a tox result is about, `url` where a mirror's
    file came from. `upload_time` is RFC 3339. `version` is None where nothing states one.
    """

    kind: str
    index: str
    project: str
    version: str | None
    path: str
    hashes: Mapping[str, str] = field(factory=dict)
    upload_time: str | None = None
    log: tuple[Mapping[str, Any], ...] = ()
    tested: str | None = None
    url: str | None = None

    @property
    def filename(self) -> str:
        """The file's own name."""
        return self.path.rpartition("/")[2]


Record = DumpedProject | DumpedRelease | DumpedFile
Thing = DumpedUser | DumpedIndex | Record


@frozen
class Survey:
    """What a first reading of a dump tells: all but the metadata of releases and the files.

    `counts` are of projects, releases and each kind of file.
    """

    users: Mapping[str, DumpedUser]
    indexes: Mapping[str, DumpedIndex]
    counts: Mapping[str, int]
    server: str


@frozen
class Dump:
    """A dump in a folder. Raises InvalidRequest from its methods when it is none, or broken."""

    root: Path

    def survey(self) -> Survey:
        """Read the dump's index once; the files are not looked at."""
        users: dict[str, DumpedUser] = {}
        indexes: dict[str, DumpedIndex] = {}
        counts: Counter[str] = Counter()
        other: dict[str, Any] = {}
        for name, value in self._values():
            if name == "users":
                users = {user: DumpedUser(user, config) for user, config in value.items()}
            elif isinstance(value, DumpedIndex):
                indexes[value.name] = value
            elif isinstance(value, DumpedFile):
                counts[value.kind] += 1
            elif isinstance(value, DumpedProject | DumpedRelease):
                counts[type(value).__name__] += 1
            else:
                other[name] = value
        if str(other.get("dumpversion")) not in ("1", "2"):
            raise InvalidRequest(
                f"dump version {other.get('dumpversion')!r} is unknown: use 1 or 2"
            )
        return Survey(users, indexes, counts, str(other.get("devpi_server", "of unknown version")))

    def records(self) -> Iterator[Record]:
        """All projects, releases and files, in an order in which they can be added.

        A project comes before its releases, those before the files of their index, and tox
        results after the files that were tested.
        """
        late: list[DumpedFile] = []
        for _, value in self._values():
            if not isinstance(value, DumpedProject | DumpedRelease | DumpedFile):
                continue
            if late and late[0].index != value.index:
                yield from late
                late = []
            if isinstance(value, DumpedFile) and value.kind == TOX_RESULT:
                late.append(value)
            else:
                yield value
        yield from late

    def open_path(self, file: DumpedFile) -> Path:
        """Where a file of the dump is; raises InvalidRequest if it is missing or elsewhere."""
        path = (self.root / file.path).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise InvalidRequest("its path leads out of the dump")
        if not path.is_file():
            raise InvalidRequest("the file is missing in the dump")
        return path

    def verify(self, file: DumpedFile) -> tuple[str, int]:
        """Read a file and compare all its hashes; its sha256 and size. Raises InvalidRequest."""
        known = {n: v for n, v in file.hashes.items() if n in HASH_NAMES}
        hashers = {n: hashlib.new(n, usedforsecurity=False) for n in {"sha256", *known}}
        size = 0
        with self.open_path(file).open("rb") as stream:
            while piece := stream.read(_PIECE):
                size += len(piece)
                for hasher in hashers.values():
                    hasher.update(piece)
        for name, value in known.items():
            if hashers[name].hexdigest() != value.lower():
                raise InvalidRequest(
                    f"the file's bytes do not have the {name} that the dump states"
                )
        return hashers["sha256"].hexdigest(), size

    def _values(self) -> Iterator[tuple[str, Any]]:
        path = self.root / "dataindex.json"
        if not path.is_file():
            raise InvalidRequest(
                f"{self.root} has no dataindex.json: is it what devpi-export wrote?"
            )
        with path.open("rb") as document:
            cursor = Cursor(document)
            for key in cursor.fields():
                if key != "indexes":
                    yield key, cursor.take()
                    continue
                for index in cursor.fields():
                    for value in _of_index(cursor, index):
                        yield key, value


def _of_index(cursor: Cursor, index: str) -> Iterator[DumpedIndex | Record]:
    for key in cursor.fields():
        if key == "indexconfig":
            yield DumpedIndex(index, cursor.take())
        elif key == "projects":
            for project in cursor.fields():
                yield DumpedProject(index, project)
                for version in cursor.fields():
                    yield _release(index, project, version, cursor.take())
        elif key == "files":
            for item in cursor.items():
                yield _file(index, item)
        else:
            cursor.take()


def _release(index: str, project: str, version: str, data: Mapping[str, Any]) -> DumpedRelease:
    metadata = {k: v for k, v in data.items() if not k.startswith(("+", ":"))}
    metadata.setdefault("name", project)
    metadata["version"] = metadata.get("version") or version
    return DumpedRelease(index, project, version, metadata)


def _file(index: str, item: Mapping[str, Any]) -> DumpedFile:
    mapping = item.get("entrymapping") or {}
    project, path = str(item["projectname"]), str(item["relpath"])
    modified = mapping.get("last_modified")
    tested = item.get("for_entrypath")
    file = DumpedFile(
        kind=str(item["type"]),
        index=index,
        project=project,
        version=item.get("version"),
        path=path,
        hashes=_hashes(mapping, str(item["type"]), path),
        upload_time=_rfc3339(modified) if modified else None,
        log=tuple(item.get("log") or ()),
        tested=None if tested is None else str(tested).rpartition("/")[2].partition("#")[0],
        url=mapping.get("url"),
    )
    return file if file.version else _with_version(file)


def _with_version(file: DumpedFile) -> DumpedFile:
    """Dumps of version 1 state no versions beside the file names."""
    name, project = file.tested or file.filename, normalize(file.project)
    if file.kind == DOCS and name.endswith(_DOCS_SUFFIX):
        return evolve(file, version=name[len(file.project) + 1 : -len(_DOCS_SUFFIX)] or None)
    return evolve(file, version=version_from_filename(name, project))


def _hashes(mapping: Mapping[str, Any], kind: str, path: str) -> dict[str, str]:
    hashes = {str(k): str(v) for k, v in (mapping.get("hashes") or {}).items()}
    if mapping.get("md5"):
        hashes["md5"] = str(mapping["md5"])
    name, found, value = str(mapping.get("hash_spec") or "").partition("=")
    if found:
        hashes.setdefault(name, value)
    parts = path.split("/")
    # devpi-server 6.5 to 6.8 stated the hash of the tested file for its tox results.
    of_tested = parts[-2].partition("=")[2] if len(parts) > 1 else ""
    return {} if kind == TOX_RESULT and of_tested in hashes.values() else hashes


def _rfc3339(http_date: str) -> str | None:
    try:
        return parsedate_to_datetime(http_date).strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return None
