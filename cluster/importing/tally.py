"""Counts of what an import brought over, and everything that it did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum

from attrs import define, field


class What(StrEnum):
    """What is counted, in the order in which it is shown."""

    USERS = "users"
    INDEXES = "indexes"
    OPTIONS = "index options"
    PROJECTS = "projects"
    RELEASES = "releases"
    FILES = "files"
    DOCS = "docs"
    TOX_RESULTS = "tox results"


_SHOWN_NAMES = 5


@define
class Tally:
    """What became of each thing in the dump; `notes` are worth knowing, but no loss."""

    imported: Counter[What] = field(factory=Counter)
    there: Counter[What] = field(factory=Counter)
    skipped: dict[tuple[What, str], list[str]] = field(factory=dict)
    notes: list[str] = field(factory=list)

    @property
    def lost(self) -> int:
        """How many things of the dump are not on the primary, or otherwise than in the dump."""
        return sum(len(names) for names in self.skipped.values())

    def add(self, what: What, is_new: bool) -> None:
        """Something is on the primary, since now or since before."""
        (self.imported if is_new else self.there)[what] += 1

    def skip(self, what: What, name: str, reason: str) -> None:
        """Something could not be taken over."""
        self.skipped.setdefault((what, reason), []).append(name)

    def note(self, name: str, notes: Sequence[str]) -> None:
        """Something to tell the operator."""
        self.notes += [f"{name}: {note}" for note in notes]

    def rows(self) -> Iterator[tuple[str, int, int, int]]:
        """(what, imported, already there, skipped) of each kind; options only if one is lost."""
        for what in What:
            skipped = sum(len(names) for (of, _), names in self.skipped.items() if of is what)
            if what is not What.OPTIONS or skipped:
                yield what.value, self.imported[what], self.there[what], skipped

    def reasons(self) -> Iterator[str]:
        """A line for each reason why something was skipped, with the first few names."""
        for (what, reason), names in sorted(self.skipped.items()):
            shown = ", ".join(names[:_SHOWN_NAMES])
            more = len(names) - _SHOWN_NAMES
            yield f"{what}: {shown}{f' and {more} more' if more > 0 else ''}: {reason}"
