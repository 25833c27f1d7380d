"""Memory of the servers, before load and after."""

from __future__ import annotations

from collections.abc import Iterable

from bench.results import Results
from bench.subjects import Target


def sample(targets: Iterable[Target], metric: str, results: Results) -> None:
    """Record `rss` and `pss` (bytes) of each server under the metric ``idle`` or ``loaded``."""
    for target in targets:
        memory = target.process.memory()
        values = {"rss": float(memory.rss), "pss": float(memory.pss)}
        results.add("memory", metric, target.name, 0, values)
