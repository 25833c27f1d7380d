"""Samples of a run and the arithmetic on them: medians, ratios within a round, percentiles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from attrs import Factory, define, frozen


@frozen
class Sample:
    """Figures of one subject for one metric in one round, e.g. ``{"rate": 17420.0}``."""

    section: str
    metric: str
    subject: str
    round: int
    values: Mapping[str, float]


@frozen
class Failure:
    """A measurement that could not be made, and why."""

    section: str
    metric: str
    subject: str
    reason: str


@define
class Results:
    """Everything that a run found out."""

    samples: list[Sample] = Factory(list)
    failures: list[Failure] = Factory(list)
    notes: list[str] = Factory(list)

    def add(
        self, section: str, metric: str, subject: str, round_: int, values: Mapping[str, float]
    ) -> None:
        """Record one sample."""
        self.samples.append(Sample(section, metric, subject, round_, values))

    def metrics(self, section: str) -> list[str]:
        """The metrics of a section, in the order they were first measured."""
        return _unique(s.metric for s in self.samples if s.section == section)

    def subjects(self, section: str) -> list[str]:
        """The subjects of a section that have any sample: nginx first, then pymirror, devpi."""
        names = {s.subject for s in self.samples if s.section == section}
        return sorted(names, key=lambda name: (name.startswith("devpi"), name != "nginx", name))

    def median(self, section: str, metric: str, subject: str, value: str) -> float | None:
        """Median over the rounds, or None if nothing was measured."""
        rounds = self._by_round(section, metric, subject, value)
        return median(rounds.values()) if rounds else None

    def ratio(
        self, section: str, metric: str, subject: str, reference: str, value: str
    ) -> float | None:
        """Median of the ratios to another subject, each taken within one round.

        A neighbour's load changes from round to round and hits both alike, so this moves less
        than the ratio of two medians. None if there is no round that has both.
        """
        ours = self._by_round(section, metric, subject, value)
        theirs = self._by_round(section, metric, reference, value)
        pairs = [ours[r] / theirs[r] for r in ours.keys() & theirs.keys() if theirs[r]]
        return median(pairs) if pairs else None

    def total(self, section: str, metric: str, subject: str, value: str) -> float:
        """Sum over the rounds, e.g. of errors."""
        return sum(self._by_round(section, metric, subject, value).values())

    def _by_round(self, section: str, metric: str, subject: str, value: str) -> dict[int, float]:
        return {
            s.round: s.values[value]
            for s in self.samples
            if (s.section, s.metric, s.subject) == (section, metric, subject) and value in s.values
        }


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; raises ValueError for no values."""
    if not values:
        raise ValueError("no values")
    rank = max(1, math.ceil(len(values) * percent / 100))
    return sorted(values)[rank - 1]


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
