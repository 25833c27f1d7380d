"""Settings of every test: a monotonic clock for Twisted, and clusters of real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import cluster.monotonic  # noqa: F401  (before anything imports the reactor)
from tests.processes import Cluster


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Cluster]:
    """An empty cluster; its processes end with the test, and their errors fail it."""
    with Cluster(tmp_path) as cluster:
        yield cluster
