"""The import: everything of a dump to a target, in an order in which it can be added."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final

from attrs import define, field

from cluster.auth.acl import ROOT
from cluster.importing.dump import (
    DOCS,
    RELEASE_FILE,
    TOX_RESULT,
    Dump,
    DumpedFile,
    DumpedIndex,
    DumpedProject,
    DumpedRelease,
    DumpedUser,
    Survey,
    Thing,
)
from cluster.importing.options import bases_first
from cluster.importing.tally import Tally, What
from cluster.importing.targets import Outcome, Target

_OF_KIND: Final = {RELEASE_FILE: What.FILES, DOCS: What.DOCS, TOX_RESULT: What.TOX_RESULTS}
_OF_TYPE: Final = {
    DumpedUser: What.USERS, DumpedIndex: What.INDEXES, DumpedProject: What.PROJECTS,
    DumpedRelease: What.RELEASES,
}  # fmt: skip
# What may be sent together: nothing in such a batch needs another thing of the same batch.
_TOGETHER: Final = {
    What.PROJECTS: "names", What.RELEASES: "names", What.FILES: "files", What.DOCS: "files",
}  # fmt: skip
_MOST_TOGETHER: Final = 100
_MOST_CHARACTERS: Final = 4 << 20


@define
class Import:
    """Brings a dump to a target, once; `advance` is told of how many things are done."""

    _dump: Dump
    _survey: Survey
    _target: Target
    _advance: Callable[[int], None] = lambda number: None
    tally: Tally = field(factory=Tally)

    @property
    def total(self) -> int:
        """The sum of the numbers that `advance` will be told."""
        survey = self._survey
        return len(survey.users) + len(survey.indexes) + sum(survey.counts.values())

    def run(self) -> Tally:
        """Bring everything; what the target refuses is in the tally."""
        for batch in _batches(self._things()):
            for thing, outcome in zip(batch, self._target.take(batch), strict=True):
                count(self.tally, thing, outcome)
            self._advance(len(batch))
        return self.tally

    def _things(self) -> Iterator[Thing]:
        """Root comes last: with root's password of the dump, the one that this import logs in
        with would be good no more.
        """
        users = self._survey.users
        others = (users[name] for name in sorted(users.keys() - {ROOT}))
        root = (users[name] for name in users.keys() & {ROOT})
        return chain(others, self._indexes(), self._records(), root)

    def _indexes(self) -> Iterator[DumpedIndex]:
        indexes = self._survey.indexes
        options = {name: index.options for name, index in indexes.items()}
        for name in bases_first(options):
            missing = [b for b in options[name].get("bases") or () if b not in indexes]
            self.tally.note(name, [f"its base {base} is not in the dump" for base in missing])
            yield indexes[name]

    def _records(self) -> Iterator[Thing]:
        for record in self._dump.records():
            if isinstance(record, DumpedFile):
                if record.kind in _OF_KIND:
                    yield record
                else:
                    self.tally.skip(What.FILES, record.path, f"its kind {record.kind!r} is unknown")
                    self._advance(1)
            elif self._survey.indexes[record.index].options.get("type") != "mirror":
                yield record
            else:  # what a mirror knows of its upstream, it learns again from there
                self._advance(1)


def count(tally: Tally, thing: Thing, outcome: Outcome) -> None:
    """Enter what became of a thing into a tally."""
    what, name = _what(thing), name_of(thing)
    if outcome.refused is not None:
        tally.skip(what, name, outcome.refused)
    else:
        tally.add(what, outcome.is_new)
    tally.note(name, outcome.notes)
    for problem in outcome.problems:
        tally.skip(What.OPTIONS, name, problem)


def name_of(thing: Thing) -> str:
    """How a thing is called in messages."""
    if isinstance(thing, DumpedUser | DumpedIndex):
        return thing.name
    if isinstance(thing, DumpedProject):
        return f"{thing.index}/{thing.name}"
    if isinstance(thing, DumpedRelease):
        return f"{thing.index}/{thing.project} {thing.version}"
    return thing.path


def _what(thing: Thing) -> What:
    return _OF_KIND[thing.kind] if isinstance(thing, DumpedFile) else _OF_TYPE[type(thing)]


def _batches(things: Iterator[Thing]) -> Iterator[list[Thing]]:
    batch: list[Thing] = []
    together: object = None
    characters = 0
    for thing in things:
        group = _group(thing)
        is_full = len(batch) >= _MOST_TOGETHER or characters >= _MOST_CHARACTERS
        if batch and (group != together or is_full):
            yield batch
            batch, characters = [], 0
        batch.append(thing)
        together = group
        if isinstance(thing, DumpedRelease):
            characters += len(str(thing.metadata.get("description", "")))
    if batch:
        yield batch


def _group(thing: Thing) -> object:
    if isinstance(thing, DumpedIndex) or name_of(thing) == ROOT:
        return name_of(thing)  # each alone: bases stand in the log before their heirs
    return _TOGETHER.get(_what(thing), _what(thing))
