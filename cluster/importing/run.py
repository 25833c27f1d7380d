"""The import: everything of a dump to a target, in an order in which it can be added."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from attrs import define, field

from cluster.auth.acl import ROOT
from cluster.errors import InvalidRequest
from cluster.importing.dump import (
    DOCS,
    RELEASE_FILE,
    TOX_RESULT,
    Dump,
    DumpedFile,
    DumpedProject,
    DumpedRelease,
    Record,
    Survey,
)
from cluster.importing.options import bases_first
from cluster.importing.tally import Tally, What
from cluster.importing.targets import Outcome, Target

_OF_KIND: Final = {RELEASE_FILE: What.FILES, DOCS: What.DOCS, TOX_RESULT: What.TOX_RESULTS}


@define
class Import:
    """Brings a dump to a target, once; `advance` is called after each thing."""

    _dump: Dump
    _survey: Survey
    _target: Target
    _advance: Callable[[], None] = lambda: None
    tally: Tally = field(factory=Tally)

    @property
    def total(self) -> int:
        """How often `advance` will be called."""
        return (
            len(self._survey.users) + len(self._survey.indexes) + sum(self._survey.counts.values())
        )

    def run(self) -> Tally:
        """Bring everything; what the target refuses is in the tally.

        Root comes last: with root's password of the dump, the one that this import logs in
        with would be good no more.
        """
        users = self._survey.users
        for name in sorted(users.keys() - {ROOT}):
            self._user(name)
        self._indexes()
        for record in self._dump.records():
            self._record(record)
        if ROOT in users:
            self._user(ROOT)
        return self.tally

    def _user(self, name: str) -> None:
        config = self._survey.users[name]
        self._take(What.USERS, name, lambda: self._target.user(name, config))

    def _indexes(self) -> None:
        indexes = self._survey.indexes
        options = {name: index.options for name, index in indexes.items()}
        for name in bases_first(options):
            missing = [b for b in options[name].get("bases") or () if b not in indexes]
            if missing:
                self.tally.note(name, [f"its base {base} is not in the dump" for base in missing])
            self._take(What.INDEXES, name, partial(self._target.index, indexes[name]))

    def _record(self, record: Record) -> None:
        if isinstance(record, DumpedFile):
            what = _OF_KIND.get(record.kind)
            if what is None:
                self._skip_unknown(record)
            else:
                self._take(what, record.path, lambda: self._target.file(record))
        elif self._is_mirror(record.index):
            self._advance()  # what a mirror knows of its upstream, it learns again from there
        elif isinstance(record, DumpedRelease):
            name = f"{record.index}/{record.project} {record.version}"
            self._take(What.RELEASES, name, lambda: self._target.release(record))
        elif isinstance(record, DumpedProject):
            name = f"{record.index}/{record.name}"
            self._take(What.PROJECTS, name, lambda: self._target.project(record))

    def _skip_unknown(self, file: DumpedFile) -> None:
        self.tally.skip(What.FILES, file.path, f"files of kind {file.kind!r} are unknown")
        self._advance()

    def _is_mirror(self, index: str) -> bool:
        return self._survey.indexes[index].options.get("type") == "mirror"

    def _take(self, what: What, name: str, take: Callable[[], Outcome]) -> None:
        try:
            outcome = take()
        except InvalidRequest as error:
            self.tally.skip(what, name, str(error))
        else:
            self.tally.add(what, outcome.is_new)
            self.tally.note(name, outcome.notes)
            for problem in outcome.problems:
                self.tally.skip(What.OPTIONS, name, problem)
        self._advance()
