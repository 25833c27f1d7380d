"""What a push within this server changes: decided in the log's transaction (devpi-api §6, Push).

So a push happens whole or not at all, and rights and conflicts are those of its own moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from attrs import define, field, frozen
from sqlalchemy import Connection

from cluster.auth.acl import Principal, require_read, require_upload
from cluster.errors import AuthenticationRequired, Conflict, Forbidden, InvalidRequest, NotFound
from cluster.log.changes import Change, Kind
from cluster.model import HostedIndex, Index
from cluster.names import IndexName, NormalizedName
from cluster.state import contents, queries
from cluster.state.contents import HeldDocs, HeldFile, HeldToxResult, LinkLog
from cluster.state.rows import content_link
from primary.releasemetadata import Metadata, complete, release_changes
from primary.staged import Holdings
from primary.uploadrules import Upload, docs_conflict, file_conflict, require_open

Action = list[Any]
"""One line of devpi's action log: a status, what was done, and to what."""


@frozen
class Wish:
    """What is asked for: a release on the index `source`, or its files or docs alone.

    `version` is normalized (`cluster.names.display_version`).
    """

    source: IndexName
    who: Principal
    project: NormalizedName
    version: str
    files: bool = True
    docs: bool = True


@frozen
class Release:
    """All that is to be pushed."""

    source: IndexName
    project: NormalizedName
    version: str
    metadata: Metadata
    files: tuple[HeldFile, ...] = ()
    docs: HeldDocs | None = None
    toxresults: tuple[HeldToxResult, ...] = ()

    @property
    def name(self) -> str:
        """The project's name as its metadata write it."""
        return str(self.metadata["name"])


def source_index(connection: Connection, wish: Wish) -> Index:
    """The index to push from; raises NotFound, AuthenticationRequired, and Forbidden for a
    quarantined project, which offers no files (PEP 792).
    """
    index = queries.index_or_404(connection, wish.source)
    require_read(wish.who, index, wish.project)
    facts = queries.project_facts(connection, wish.source, wish.project)
    if facts is not None and facts[0].status == "quarantined":
        raise Forbidden(f"{wish.project} on {wish.source} is quarantined: it offers no files")
    return index


def release_of(connection: Connection, wish: Wish) -> Release:
    """What is asked for, as the source itself has it: bases are not looked at.

    Raises InvalidRequest when it does not have the version, NotFound when that has no files.
    """
    where = wish.source, wish.project
    if wish.version not in contents.versions(connection, where):
        raise InvalidRequest(f"{wish.source} itself has no release {wish.project} {wish.version}")
    files = contents.held_files(connection, where, wish.version) if wish.files else []
    docs = contents.docs_of(connection, where).get(wish.version) if wish.docs else None
    if not files and docs is None:
        what = "files" if wish.files else "documentation"
        raise NotFound(f"no {what} of {wish.project} {wish.version} on {wish.source}")
    names = {held.file.filename for held in files}
    results = [r for r in contents.toxresults_of(connection, where) if r.filename in names]
    known = contents.release(connection, where, wish.version)
    if known is None:
        name = contents.display_name(connection, where) or wish.project
        known = {"name": name, "version": wish.version}
    return Release(*where, wish.version, known, tuple(files), docs, tuple(results))


def target_index(
    connection: Connection, name: IndexName, who: Principal, project: NormalizedName
) -> HostedIndex:
    """The index to push to.

    Raises NotFound, Forbidden for a closed project, and AuthenticationRequired for who may not
    upload, known or not: devpi answers 401 there.
    """
    index = queries.index_or_404(connection, name)
    if not isinstance(index, HostedIndex):
        require_read(who, index)
        raise NotFound(f"{name} is a mirror: nothing is pushed there")
    try:
        require_upload(who, index, project)
    except Forbidden as error:
        raise AuthenticationRequired(
            f"user {who.name!r} cannot upload to {name}: {error}"
        ) from None
    return require_open(connection, name, who, project)


@define
class InternalPush:
    """The changes that bring `release` to the index of `push`, and devpi's account of them."""

    connection: Connection
    push: Upload
    release: Release
    actions: list[Action] = field(factory=list)
    _held: Holdings = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._held = Holdings(self.connection, self.push.index, self.release.project)

    def changes(self) -> list[Change]:
        """What to record, nothing for what is there already.

        Raises as `target_index`, and Conflict for other content on a non-volatile index.
        """
        push, release = self.push, self.release
        target = target_index(self.connection, push.index, push.who, release.project)
        changes = list(self._registered())
        for held in release.files:
            changes += self._file(target, held)
        if release.docs is not None:
            changes += self._docs(target, release.docs)
        return changes

    def _registered(self) -> Iterable[Change]:
        release = self.release
        self.actions.append(
            [200, "register", release.name, release.version, "->", self.push.index]
        )  # fmt: skip
        known = self._held.release(release.version)
        if known is not None and not release.files:
            return []  # documentation alone says nothing new of a release
        metadata = complete({**release.metadata, "version": release.version})
        return release_changes(self.push.index, release.project, known, metadata, {})

    def _file(self, target: HostedIndex, held: HeldFile) -> Iterator[Change]:
        file = held.file
        known = self._held.file(file.filename)
        is_there = known is not None and known.file.sha256 == file.sha256
        if not is_there:
            trouble = file_conflict(target, self._held, file)
            if trouble is not None:
                raise Conflict(trouble)
            log = self._log(held.log, None if known is None else known.log)
            yield self._change(Kind.FILE_ADDED, {"file": file.to_json(), "log": log})
        self._did("store_releasefile", file.sha256 or "", file.filename)
        yield from self._toxresults(held, is_there)

    def _toxresults(self, held: HeldFile, is_there: bool) -> Iterator[Change]:
        filename = held.file.filename
        where = self.push.index, self.release.project
        # A file that is replaced takes its results along.
        there = contents.toxresults_of(self.connection, where, filename) if is_there else []
        by_content = {result.sha256: result.result for result in there}
        for result in self.release.toxresults:
            if result.filename != filename:
                continue
            name = by_content.get(result.sha256)
            if name is None:
                name = _free(result.result, set(by_content.values()))
                by_content[result.sha256] = name
                facts = {"filename": name, "sha256": result.sha256, "size": result.size}
                yield self._change(
                    Kind.TOXRESULT_ADDED,
                    {"filename": filename, "result": facts, "log": self._log(result.log)},
                )
            self._did("store_toxresult", held.file.sha256 or "", name)

    def _docs(self, target: HostedIndex, docs: HeldDocs) -> Iterator[Change]:
        version = self.release.version
        facts = {"filename": docs.filename, "sha256": docs.sha256, "size": docs.size}
        known = self._held.docs(version)
        if known is None or known.sha256 != docs.sha256:
            trouble = docs_conflict(target, self._held, version, facts)
            if trouble is not None:
                raise Conflict(trouble)
            log = self._log(docs.log, None if known is None else known.log)
            yield self._change(Kind.DOCS_SET, {"version": version, "docs": facts, "log": log})
        self._did("store_doczip", docs.sha256, docs.filename)

    def _change(self, kind: Kind, payload: dict[str, Any]) -> Change:
        where = {"index": self.push.index, "project": self.release.project}
        return Change(kind, {**where, "name": self.release.name, **payload})

    def _log(self, source: LinkLog, replaced: LinkLog | None = None) -> LinkLog:
        # What was overwritten on the source is not what is overwritten on the target.
        moved = [entry for entry in source if entry.get("what") != "overwrite"]
        overwritten = self.push.log(replaced)[:-1]
        pushed = self.push.entry("push", src=self.release.source, dst=self.push.index)
        return [*overwritten, *moved, pushed]

    def _did(self, what: str, sha256: str, filename: str) -> None:
        link = content_link(sha256)
        path = f"{self.push.index}/+f/{link[:3]}/{link[3:]}/{filename}"
        self.actions.append([200, what, path])


def _free(result: str, taken: set[str]) -> str:
    """A test result's name with the first number, from its own on, that is not taken."""
    stem, _, number = result.rpartition("-")
    count = int(number) if number.isdigit() else 0
    while result in taken:
        count += 1
        result = f"{stem}-{count}"
    return result
