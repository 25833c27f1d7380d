"""Releases and their links as devpi-client reads them (devpi-api §6): from rows to JSON values."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Final
from urllib.parse import quote

from attrs import define, field, frozen
from sqlalchemy import Connection

from cluster.model import DistributionFile, Index
from cluster.names import NormalizedName, display_version, version_sort_key
from cluster.simple.pages import file_path
from cluster.state import contents, queries
from cluster.state.contents import HeldDocs, HeldFile, HeldToxResult
from cluster.state.links import LocatedFile
from cluster.web.replies import Reply, json_reply

VersionData = dict[str, Any]
"""A release: its metadata, ``+links``, and ``+shadowing`` when other indexes have it too."""

# For a file that has no sha256: strong before weak.
_HASHES: Final = ("sha256", "sha512", "sha384", "sha224", "blake2b", "sha1", "md5")


JSON_HEADERS: Final = {"Cache-Control": "no-store", "Vary": "Accept"}
"""Of documents whose URL has another form too, and which depend on who asks."""


@frozen
class Source:
    """An index that contributes to a project, and files of it that no log entry covers."""

    index: Index
    unlogged: tuple[DistributionFile, ...] = ()


def project_config(
    connection: Connection, sources: Iterable[Source], project: NormalizedName, base: str
) -> dict[str, VersionData] | None:
    """The releases of a project by version, new ones first; None when no source has it.

    The first source with a version supplies it, the others stand in its ``+shadowing``. `base`
    is the URL of this node.
    """
    merged: dict[str, VersionData] = {}
    found = False
    for source in sources:
        versions = _versions_on(connection, source, project, base)
        found = found or versions is not None
        for version, data in (versions or {}).items():
            if version in merged:
                merged[version].setdefault("+shadowing", []).append(data)
            else:
                merged[version] = data
    newest_first = sorted(merged, key=version_sort_key, reverse=True)
    return {version: merged[version] for version in newest_first} if found else None


def _versions_on(
    connection: Connection, source: Source, project: NormalizedName, base: str
) -> dict[str, VersionData] | None:
    where = source.index.name, project
    if not queries.has_project(connection, *where) and not source.unlogged:
        return None
    releases = _Releases(
        f"{base}/{quote(source.index.name)}",
        contents.display_name(connection, where) or project,
        contents.releases_of(connection, where),
    )
    held = contents.held_files(connection, where)
    known = {one.file.filename for one in held}
    extra = [HeldFile(f, []) for f in source.unlogged if f.filename not in known]
    for file in (*held, *extra):
        releases.add_file(file)
    for docs in contents.docs_of(connection, where).values():
        releases.add_docs(docs)
    for result in contents.toxresults_of(connection, where):
        releases.add_toxresult(result)
    return releases.versions


@define
class _Releases:
    """The releases of a project on one index while their links are collected.

    `root` is the index's URL, `name` the project's as its owner writes it.
    """

    root: str
    name: str
    versions: dict[str, VersionData]
    _files: dict[str, tuple[str, str]] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        for data in self.versions.values():
            data["+links"] = []

    def _release(self, version: str) -> VersionData:
        key = display_version(version)
        empty = {"name": self.name, "version": key, "+links": []}
        return self.versions.setdefault(key, empty)

    def add_file(self, held: HeldFile) -> None:
        """A file whose version is not known has no release to stand in."""
        file = held.file
        if not file.version:
            return
        href = f"{self.root}/{_as_devpi(file_path(file))}"
        link = {"rel": "releasefile", "href": href, **hashes_json(file), "log": held.log}
        if file.yanked is not None:
            link["yanked"] = file.yanked
        release = self._release(file.version)
        release["+links"].append(link)
        if file.requires_python and not release.get("requires_python"):
            release["requires_python"] = file.requires_python
        self._files[file.filename] = file.version, href

    def add_docs(self, docs: HeldDocs) -> None:
        """The documentation of a release."""
        file = DistributionFile(docs.filename, hashes={"sha256": docs.sha256})
        href = f"{self.root}/{_as_devpi(file_path(file))}"
        link = {"rel": "doczip", "href": href, **hashes_json(file), "log": docs.log}
        self._release(docs.version)["+links"].append(link)

    def add_toxresult(self, result: HeldToxResult) -> None:
        """The result of a test; those of a file that upstream took back are not shown."""
        if result.filename not in self._files:
            return
        version, tested = self._files[result.filename]
        file = DistributionFile(result.result, hashes={"sha256": result.sha256})
        link = {
            "rel": "toxresult",
            "href": f"{self.root}/{toxresult_path(result.link, result.result)}",
            "for_href": tested,
            **hashes_json(file),
            "log": result.log,
        }
        self._release(version)["+links"].append(link)


def toxresult_path(link: str, filename: str) -> str:
    """A tox result's quoted path below its index: it stands beside the file that was tested."""
    return f"+f/{link[:3]}/{link[3:]}/{_as_devpi(quote(filename, safe=''))}"


def _as_devpi(path: str) -> str:
    """Leave + and ! as they are: devpi-client saves a file under the end of its link as it is
    written, and pip refuses a wheel that is called ``foo-1.0%2Bcpu-py3-none-any.whl``."""
    return path.replace("%2B", "+").replace("%21", "!")


def hashes_json(file: DistributionFile) -> dict[str, Any]:
    """All hashes of a file, and the best one as ``hash_spec`` (devpi: ``sha256=…``)."""
    best = next((name for name in _HASHES if name in file.hashes), None)
    spec = {} if best is None else {"hash_spec": f"{best}={file.hashes[best]}"}
    return {**spec, "hashes": dict(file.hashes)}


def latest(versions: Iterable[str], *, stable: bool) -> str | None:
    """The newest version; with `stable` the newest that is no pre-release, if there is one."""
    keys = sorted((version_sort_key(version) for version in versions), reverse=True)
    final = [key for key in keys if key[1] is None or not key[1].is_prerelease]
    chosen = final if stable and final else keys
    return chosen[0][2] if chosen else None


def file_meta(located: LocatedFile) -> Reply:
    """What is known of a file, for who asks for it as JSON."""
    file = located.file
    result = {
        "project": located.project,
        "version": file.version,
        **hashes_json(file),
        "last_modified": _http_date(file.upload_time),
        "size": file.size,
        "requires_python": file.requires_python,
        "upload_time": file.upload_time,
        "yanked": file.yanked,
    }
    return json_reply({"type": "releasefilemeta", "result": result}, headers=JSON_HEADERS)


def _http_date(upload_time: str | None) -> str | None:
    if upload_time is None:
        return None
    try:
        moment = datetime.fromisoformat(upload_time).astimezone(UTC)
    except ValueError:
        return None
    return format_datetime(moment, usegmt=True)
