"""A network that cuts, loses and delays: nodes serve on, and come to the same log when it ends."""

from __future__ import annotations

import time

import pytest

from tests.functional.scenarios.world import World
from tests.processes import Node

pytestmark = [pytest.mark.functional, pytest.mark.slow]

CUT_SECONDS = 8.0


def clients(world: World, primary: Node, replicas: list[Node]) -> None:
    """One uploads to the primary and one through r2; every node is read."""
    world.load.upload_to("at-primary", lambda: primary)
    world.load.upload_to("through-r2", lambda: replicas[1], pace=0.2)
    for node in (primary, *replicas):
        world.load.read_from(f"reads-{node.name}", node)


def test_cut_replica(world: World) -> None:
    """A replica that is cut off serves on and says that it is behind; healed, it is equal within
    ten seconds."""
    primary, replicas = world.started()
    with world.load.until():
        clients(world, primary, replicas)
        world.load.wait_acked(10)
        world.lab.cut("primary", "r1")
        began = time.monotonic()
        while time.monotonic() < began + CUT_SECONDS:
            world.load.wait_acked(5)
            assert replicas[0].get("/+ready").status == 200
            assert replicas[0].page("root/dev", "p1").status == 200
        behind = primary.status()["serial"] - replicas[0].status()["serial"]
        assert behind > 0
        healed = world.heal()
        world.load.wait_acked(5)
    world.converged([primary, *replicas], healed)
    world.judged([primary, *replicas])
