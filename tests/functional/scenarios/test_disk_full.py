"""A full disk: writes are refused, reads go on, and it recovers without a restart."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from tests.builders import wheel
from tests.functional.scenarios.load import send
from tests.functional.scenarios.world import World
from tests.processes import eventually

pytestmark = [pytest.mark.functional, pytest.mark.slow]

DISK_BYTES = 48 << 20
FULL_SECONDS = 3.0


def fill(folder: Path) -> Path:
    """Leave no byte on the disk; the file that takes them."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(64 << 10))
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x")
    return ballast


def test_full_primary(world: World) -> None:
    """A primary without space refuses uploads with 503 or 507, serves pages, and takes uploads
    again as soon as there is space."""
    world.small_disk("primary", DISK_BYTES)
    # Else it would refuse before: here something else takes the last bytes.
    primary, replicas = world.started(2, "--min-free", "0")
    nodes = [primary, *replicas]
    with world.load.until():
        world.load.upload_to("at-primary", lambda: primary)
        world.load.upload_to("through-r1", lambda: replicas[0], pace=0.1)
        for node in nodes:
            world.load.read_from(f"reads-{node.name}", node)
        world.load.wait_acked(10)
        ballast = fill(primary.state_dir)
        answer = send(primary, wheel("big", "1", size=1 << 20))
        assert answer.status in (503, 507), answer
        until = time.monotonic() + FULL_SECONDS
        while time.monotonic() < until:
            for node in nodes:
                assert node.page("root/dev", "p1").status == 200
        ballast.unlink()
        freed = time.monotonic()
        world.load.wait_acked(10, 10)
    world.allow_alarms = True  # that it could not write is in its log, with the cause
    assert time.monotonic() - freed < 15
    world.converged(nodes, time.monotonic())
    world.judged(nodes)


def test_full_replica(world: World) -> None:
    """A replica without space serves what it has, and is equal ten seconds after there is some
    again; nobody else minds."""
    world.small_disk("r1", DISK_BYTES)
    primary, (r1, r2) = world.started(2)
    with world.load.until():
        world.load.upload_to("at-primary", lambda: primary)
        world.load.read_from("reads-r1", r1)
        world.load.wait_acked(10)
        ballast = fill(r1.state_dir)
        eventually(lambda: r1.status()["follower"]["failures"] > 0, 15, "r1 cannot store")
        assert r1.status()["follower"]["last_error"]
        world.load.wait_acked(10)
        assert r1.page("root/dev", "p1").status == 200
        ballast.unlink()
        freed = time.monotonic()
    world.allow_alarms = True
    world.converged([primary, r1, r2], freed)
    world.judged([primary, r1, r2])
