"""Where an import goes: to a running primary, or nowhere, to see what would become of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from attrs import define, field, frozen

from cluster.auth.passwords import LOCKED, from_devpi
from cluster.errors import InvalidRequest
from cluster.importing.dump import (
    TOX_RESULT,
    Dump,
    DumpedFile,
    DumpedIndex,
    DumpedProject,
    DumpedRelease,
)
from cluster.importing.options import take_options
from cluster.importing.upload import PrimaryClient
from cluster.names import index_name, is_filename, project_name

_PASSWORD_KEYS = ("password", "pwhash", "pwsalt")
_NOT_OPTIONS = (*_PASSWORD_KEYS, "username", "indexes")


@frozen
class Outcome:
    """What became of one thing: new there or not, what to know about it, what of it is lost."""

    is_new: bool = True
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()


class Target(Protocol):
    """Takes one thing at a time; raises InvalidRequest for what cannot be taken."""

    def user(self, name: str, config: Mapping[str, Any]) -> Outcome:
        """A user, with devpi's keys."""

    def index(self, index: DumpedIndex) -> Outcome:
        """An index."""

    def project(self, project: DumpedProject) -> Outcome:
        """A project's name."""

    def release(self, release: DumpedRelease) -> Outcome:
        """A release's metadata."""

    def file(self, file: DumpedFile) -> Outcome:
        """A file of any kind, with its bytes."""


@define
class RunningPrimary:
    """Sends everything to a primary."""

    _client: PrimaryClient
    _dump: Dump

    def user(self, name: str, config: Mapping[str, Any]) -> Outcome:
        """See `Target`."""
        options = {k: v for k, v in config.items() if k not in _NOT_OPTIONS}
        hashes = {k: config[k] for k in ("pwhash", "pwsalt") if config.get(k)}
        return self._put("user", {"user": name, "options": options, **hashes})

    def index(self, index: DumpedIndex) -> Outcome:
        """See `Target`."""
        return self._put("index", {"index": index.name, "options": index.options})

    def project(self, project: DumpedProject) -> Outcome:
        """See `Target`."""
        return self._put("project", {"index": project.index, "name": project.name})

    def release(self, release: DumpedRelease) -> Outcome:
        """See `Target`."""
        body = {
            "index": release.index,
            "name": release.metadata["name"],
            "version": release.version,
            "metadata": release.metadata,
        }
        return self._put("release", body)

    def file(self, file: DumpedFile) -> Outcome:
        """See `Target`. The bytes are sent only if the primary does not have them."""
        path = self._dump.open_path(file)
        sha256 = file.hashes.get("sha256", "").lower() or self._dump.verify(file)[0]
        body = {
            "kind": file.kind, "index": file.index, "project": file.project,
            "version": file.version, "filename": file.filename, "sha256": sha256,
            "upload_time": file.upload_time, "log": file.log, "tested": file.tested,
            "url": file.url,
        }  # fmt: skip
        outcome = self._client.put_json("file", body)
        if outcome["outcome"] == "wanted":
            self._client.put_bytes(path, sha256)
            outcome = self._client.put_json("file", body)
        return _outcome(outcome)

    def _put(self, what: str, body: Mapping[str, Any]) -> Outcome:
        return _outcome(self._client.put_json(what, body))


def _outcome(result: Mapping[str, Any]) -> Outcome:
    return Outcome(result["outcome"] == "imported", result["notes"], result["problems"])


@define
class DryRun:
    """Reads everything, verifies every hash, and changes nothing; no primary is needed."""

    _dump: Dump
    _known: set[str] = field(factory=set)
    _files: set[tuple[str, str]] = field(factory=set)
    _files_of: str = ""

    def user(self, name: str, config: Mapping[str, Any]) -> Outcome:
        """See `Target`."""
        index_name(name, "any")
        try:
            stored = from_devpi(config.get("pwhash"), config.get("pwsalt"))
        except ValueError as error:
            raise InvalidRequest(f"its password hash cannot be used: {error}") from None
        return Outcome(notes=["has no password in the dump"] if stored == LOCKED else [])

    def index(self, index: DumpedIndex) -> Outcome:
        """See `Target`."""
        user, _, name = index.name.partition("/")
        taken = take_options(index_name(user, name), index.options)
        self._known.add(index.name)
        return Outcome(True, taken.notes, taken.problems)

    def project(self, project: DumpedProject) -> Outcome:
        """See `Target`."""
        self._check_index(project.index)
        project_name(project.name)
        return Outcome()

    def release(self, release: DumpedRelease) -> Outcome:
        """See `Target`."""
        self._check_index(release.index)
        project_name(str(release.metadata["name"]))
        return Outcome()

    def file(self, file: DumpedFile) -> Outcome:
        """See `Target`."""
        self._check_index(file.index)
        project_name(file.project)
        if not file.version:
            raise InvalidRequest("nothing says which version this is")
        if not is_filename(file.filename):
            raise InvalidRequest("its name cannot be that of a file")
        self._dump.verify(file)
        if self._files_of != file.index:
            self._files_of, self._files = file.index, set()
        if file.kind != TOX_RESULT:
            self._files.add((file.project, file.filename))
        elif (file.project, file.tested or "") not in self._files:
            raise InvalidRequest(f"the file that was tested, {file.tested!r}, is not there")
        return Outcome()

    def _check_index(self, name: str) -> None:
        if name not in self._known:
            raise InvalidRequest(f"the index {name} is not taken over")
