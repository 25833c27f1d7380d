"""The hosts that scenarios need; without them they are skipped, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.functional.scenarios.world import HOSTS, World
from tests.netlab import Lab, why_not


@pytest.fixture
def world(tmp_path: Path, record_property: Callable[[str, object], None]) -> Iterator[World]:
    """Five hosts, none of which runs anything yet; the test is on the host `client`."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Lab(HOSTS) as lab, World(tmp_path, lab, record_property) as cluster, lab.inside("client"):
        yield cluster
