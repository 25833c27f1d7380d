"""A wall clock that jumps, on one node: nothing stalls, nothing expires in masses."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.functional.scenarios.world import World

pytestmark = [pytest.mark.functional, pytest.mark.slow]

JUMPS = ("-2h", "+30d")


def faketime() -> str:
    """The library that tells programs another time; skips the test without it."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        pytest.skip("no libfaketime: apt-get install libfaketime")
    return str(found[0])


@pytest.mark.parametrize("host", ["primary", "r1"])
def test_clock_jumps(world: World, host: str) -> None:
    """With a clock two hours back, and then thirty days ahead, uploads, pages and following go
    on, and a restarted node is admitted."""
    file = world.directory / "offset"
    file.write_text("+0")
    world.prefix[host] = [
        "env", f"LD_PRELOAD={faketime()}", f"FAKETIME_TIMESTAMP_FILE={file}",
        "FAKETIME_CACHE_DURATION=1", "FAKETIME_DONT_FAKE_MONOTONIC=1",
    ]  # fmt: skip
    primary, replicas = world.started(2)
    nodes = [primary, *replicas]
    with world.load.until():
        world.load.upload_to("at-primary", lambda: primary)
        world.load.upload_to("through-r1", lambda: replicas[0], pace=0.1)
        for node in nodes:
            world.load.read_from(f"reads-{node.name}", node)
        world.load.wait_acked(5)
        for jump in JUMPS:
            file.write_text(jump)
            world.load.wait_acked(10)
            serial = primary.status()["serial"]
            for node in replicas:
                node.wait_serial(serial)
            replicas[0].restart()
    world.converged(nodes, time.monotonic())
    world.judged(nodes)
