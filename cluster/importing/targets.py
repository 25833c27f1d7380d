"""Where an import goes: to a running primary, or nowhere, to see what would become of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from attrs import define, field, frozen

from cluster.auth.passwords import LOCKED, from_devpi
from cluster.errors import InvalidRequest
from cluster.importing.dump import (
    TOX_RESULT,
    Dump,
    DumpedFile,
    DumpedIndex,
    DumpedRelease,
    DumpedUser,
    Thing,
)
from cluster.importing.options import take_options
from cluster.importing.upload import PrimaryClient
from cluster.names import index_name, is_filename, project_name

_NOT_OPTIONS: Final = ("password", "pwhash", "pwsalt", "username", "indexes")
_WANTED: Final = "wanted"


@frozen
class Outcome:
    """What became of one thing: whether it was new, what to know about it, what of it is lost.

    `refused` is why nothing of it was taken, None if it was.
    """

    is_new: bool = True
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()
    refused: str | None = None


class Target(Protocol):
    """Takes things that do not need each other; raises BrokenOff when it takes no more."""

    def take(self, things: Sequence[Thing]) -> Sequence[Outcome]:
        """What became of each."""


@define
class RunningPrimary:
    """Sends everything to a primary."""

    _client: PrimaryClient
    _dump: Dump

    def take(self, things: Sequence[Thing]) -> list[Outcome]:
        """See `Target`. A file's bytes are sent only if the primary does not have them."""
        bodies: dict[int, Mapping[str, Any]] = {}
        outcomes: dict[int, Outcome] = {}
        for number, thing in enumerate(things):
            try:
                bodies[number] = body_of(thing, self._dump)
            except InvalidRequest as error:
                outcomes[number] = Outcome(refused=str(error))
        wanted = self._send(bodies, outcomes)
        for number in wanted:
            thing = things[number]
            assert isinstance(thing, DumpedFile)  # noqa: S101 (others have no bytes)
            try:
                self._client.put_bytes(self._dump.open_path(thing), bodies[number]["sha256"])
            except InvalidRequest as error:
                outcomes[number] = Outcome(refused=str(error))
        sent = {number: bodies[number] for number in wanted if number not in outcomes}
        for number in self._send(sent, outcomes):
            outcomes[number] = Outcome(refused="the primary has lost its bytes")
        return [outcomes[number] for number in range(len(things))]

    def _send(
        self, bodies: Mapping[int, Mapping[str, Any]], outcomes: dict[int, Outcome]
    ) -> list[int]:
        """Fill in the outcomes; returns the numbers of the files whose bytes are wanted."""
        results = self._results(list(bodies.values())) if bodies else []
        wanted = []
        for number, result in zip(bodies, results, strict=True):
            if result["outcome"] == _WANTED:
                wanted.append(number)
            elif result["outcome"] == "refused":
                outcomes[number] = Outcome(refused=result["message"])
            else:
                is_new = result["outcome"] == "imported"
                notes, problems = tuple(result["notes"]), tuple(result["problems"])
                outcomes[number] = Outcome(is_new, notes, problems)
        return wanted

    def _results(self, bodies: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The primary's answers; of a request that is refused as a whole, the parts are tried."""
        try:
            return self._client.put_things(bodies)
        except InvalidRequest as error:
            if len(bodies) == 1:
                return [{"outcome": "refused", "message": str(error)}]
        half = len(bodies) // 2
        return self._results(bodies[:half]) + self._results(bodies[half:])


def body_of(thing: Thing, dump: Dump) -> dict[str, Any]:
    """What the primary is told of a thing; raises InvalidRequest for a file that is not there."""
    if isinstance(thing, DumpedUser):
        options = {k: v for k, v in thing.config.items() if k not in _NOT_OPTIONS}
        hashes = {k: thing.config[k] for k in ("pwhash", "pwsalt") if thing.config.get(k)}
        return {"what": "user", "user": thing.name, "options": options, **hashes}
    if isinstance(thing, DumpedIndex):
        return {"what": "index", "index": thing.name, "options": thing.options}
    if isinstance(thing, DumpedRelease):
        return {
            "what": "release", "index": thing.index, "name": thing.metadata["name"],
            "version": thing.version, "metadata": thing.metadata,
        }  # fmt: skip
    if not isinstance(thing, DumpedFile):
        return {"what": "project", "index": thing.index, "name": thing.name}
    dump.open_path(thing)
    sha256 = thing.hashes.get("sha256", "").lower() or dump.verify(thing)[0]
    return {
        "what": "file", "kind": thing.kind, "index": thing.index, "project": thing.project,
        "version": thing.version, "filename": thing.filename, "sha256": sha256,
        "upload_time": thing.upload_time, "log": thing.log, "tested": thing.tested,
        "url": thing.url,
    }  # fmt: skip


@define
class DryRun:
    """Reads everything, verifies every hash, and changes nothing; no primary is needed."""

    _dump: Dump
    _known: set[str] = field(factory=set)
    _files: set[tuple[str, str]] = field(factory=set)
    _files_of: str = ""

    def take(self, things: Sequence[Thing]) -> list[Outcome]:
        """See `Target`."""
        outcomes = []
        for thing in things:
            try:
                outcomes.append(self._check(thing))
            except InvalidRequest as error:
                outcomes.append(Outcome(refused=str(error)))
        return outcomes

    def _check(self, thing: Thing) -> Outcome:
        if isinstance(thing, DumpedUser):
            return _check_user(thing)
        if isinstance(thing, DumpedIndex):
            user, _, name = thing.name.partition("/")
            taken = take_options(index_name(user, name), thing.options)
            self._known.add(thing.name)
            return Outcome(True, taken.notes, taken.problems)
        if thing.index not in self._known:
            raise InvalidRequest(f"its index {thing.index} is not taken over")
        if isinstance(thing, DumpedRelease):
            project_name(str(thing.metadata["name"]))
        elif isinstance(thing, DumpedFile):
            self._check_file(thing)
        else:
            project_name(thing.name)
        return Outcome()

    def _check_file(self, file: DumpedFile) -> None:
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


def _check_user(user: DumpedUser) -> Outcome:
    index_name(user.name, "any")
    try:
        stored = from_devpi(user.config.get("pwhash"), user.config.get("pwsalt"))
    except ValueError as error:
        raise InvalidRequest(f"its password hash cannot be used: {error}") from None
    return Outcome(notes=["has no password in the dump"] if stored == LOCKED else [])
