"""A network that cuts, loses and delays: nodes serve on, and come to the same log when it ends."""

from __future__ import annotations

import statistics
import time
from typing import Any

import pytest

from tests.functional.scenarios.world import World
from tests.history import Action, Outcome
from tests.processes import Node, eventually

pytestmark = [pytest.mark.functional, pytest.mark.slow]

CUT_SECONDS = 12.0
ROUGH_SECONDS = 8.0
SLOW_KBIT = 256


def clients(world: World, primary: Node, replicas: list[Node]) -> None:
    """One uploads to the primary and one through the last replica; every node is read."""
    world.load.upload_to("at-primary", lambda: primary)
    world.load.upload_to("through-last", lambda: replicas[-1], pace=0.2)
    for node in (primary, *replicas):
        world.load.read_from(f"reads-{node.name}", node)


def row_of(primary: Node, replica: Node) -> dict[str, Any]:
    """What the primary's status says of a replica."""
    uuid = replica.status()["uuid"]
    rows: list[dict[str, Any]] = primary.status()["replicas"]
    return next(row for row in rows if row["uuid"] == uuid)


def test_cut_replica(world: World) -> None:
    """A replica that is cut off serves on, it and the primary say how long it has been behind;
    healed, it is equal within ten seconds."""
    primary, (r1, *others) = world.started()
    with world.load.until():
        clients(world, primary, [r1, *others])
        world.load.wait_acked(10)
        world.lab.cut("primary", "r1")
        began = time.monotonic()
        eventually(
            lambda: r1.status()["follower"]["state"] == "primary-unreachable",
            CUT_SECONDS + 5, "r1 notices",
        )  # fmt: skip
        while time.monotonic() < began + CUT_SECONDS:
            world.load.wait_acked(5)
            assert r1.get("/+ready").status == 200
            assert r1.page("root/dev", "p1").status == 200
        lag, real = row_of(primary, r1)["lag_seconds"], time.monotonic() - began
        assert abs(lag - real) < 2
        assert r1.status()["follower"]["lag_seconds"] > 0
        healed = world.heal()
        eventually(lambda: _saw_least(world, "reads-r1-min", began), 10, "r1 answers with Min")
        world.load.wait_acked(5)
    world.converged([primary, r1, *others], healed)
    world.judged([primary, r1, *others])
    done = [o for o in world.load.history.operations if o.outcome is Outcome.OK]
    assert {o.action for o in done} == set(Action)


def _saw_least(world: World, session: str, since: float) -> bool:
    return any(
        one.session == session and one.minimum and one.began > since and one.outcome is Outcome.OK
        for one in list(world.load.history.operations)
    )


def test_one_way_cut(world: World) -> None:
    """A replica that is heard but does not hear backs off, applies nothing twice, and is equal
    within ten seconds after the way back is open."""
    primary, (r1, r2) = world.started(2)
    with world.load.until():
        clients(world, primary, [r1, r2])
        world.load.wait_acked(10)
        world.lab.cut("primary", "r1", one_way=True)
        eventually(lambda: r1.status()["follower"]["failures"] >= 2, 40, "r1 backs off")
        assert r1.status()["follower"]["state"] == "primary-unreachable"
        world.load.wait_acked(5)
        healed = world.heal()
    world.converged([primary, r1, r2], healed)
    world.judged([primary, r1, r2])


def test_lossy_network(world: World) -> None:
    """With 5 % loss and 100 ± 50 ms both ways together, replicas follow, and what the primary
    says of their lag is right to two seconds."""
    primary, replicas = world.started(2)
    for node in replicas:
        world.lab.shape("primary", node.name, delay_ms=50, jitter_ms=25, loss=0.05)
    with world.load.until():
        clients(world, primary, replicas)
        until = time.monotonic() + ROUGH_SECONDS
        while time.monotonic() < until:
            began, serial = time.monotonic(), primary.status()["serial"]
            said = row_of(primary, replicas[0])["lag_seconds"]
            replicas[0].wait_serial(serial)
            assert said <= time.monotonic() - began + 2
    ended = time.monotonic()
    world.converged([primary, *replicas], ended)
    world.judged([primary, *replicas])


def test_slow_replica(world: World) -> None:
    """A replica at 256 kbit/s neither delays the others nor makes the primary grow."""
    primary, (r1, slow) = world.started(2)
    world.lab.shape("primary", "r2", kbit=SLOW_KBIT)
    with world.load.until():
        world.load.upload_to("at-primary", lambda: primary, pace=0.01)
        world.load.upload_to("also", lambda: primary, pace=0.01)
        world.load.read_from("reads-slow", slow)
        world.load.wait_acked(20)
        before, lags = primary.rss_bytes(), []
        until = time.monotonic() + ROUGH_SECONDS
        while time.monotonic() < until:
            began, serial = time.monotonic(), primary.status()["serial"]
            r1.wait_serial(serial, 5)
            lags.append(time.monotonic() - began)
        assert statistics.median(lags) < 0.5
        assert primary.rss_bytes() - before < 32 << 20
    healed = world.heal()
    world.converged([primary, r1, slow], healed)
    world.judged([primary, r1, slow])
