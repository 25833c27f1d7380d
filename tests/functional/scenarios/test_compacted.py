"""A replica that was away until the log had been compacted behind its position."""

from __future__ import annotations

import time

import pytest

from tests.builders import wheel
from tests.functional.helpers import check_same_pages
from tests.functional.scenarios.load import send
from tests.functional.scenarios.world import World
from tests.processes import eventually

pytestmark = [pytest.mark.functional, pytest.mark.slow]


def test_behind_a_compacted_log(world: World) -> None:
    """What it lacks is not in the log any more, so it starts from a snapshot, and is equal."""
    primary, (r1, r2) = world.started(
        2, "--snapshot-every", "10", "--keep-entries", "5", "--keep-days", "0"
    )
    assert send(primary, wheel("first", "1")).status == 200
    world.converged([primary, r1, r2], time.monotonic())
    r1.terminate()
    for number in range(40):
        assert send(primary, wheel(f"p{number % 4}", f"{number}")).status == 200
    eventually(lambda: primary.status()["minimum"] > 10, 20, "the log is compacted")
    r1.start()
    world.converged([primary, r1, r2], time.monotonic())
    check_same_pages([primary, r1, r2], "root/dev", ["first", "p0", "p1", "p2", "p3"])
