"""Nodes that are killed at any moment: what was acknowledged is there, and all come together."""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.functional.scenarios.world import World
from tests.processes import Node, http

pytestmark = [pytest.mark.functional, pytest.mark.slow]

KILLS = int(os.environ.get("PYMIRROR_TEST_KILLS", "4"))


def check_files(world: World, node: Node) -> None:
    """Every acknowledged upload that nobody deleted comes back, byte for byte."""
    deleted = world.load.history.tried_to_delete()
    acked = [one for one in world.load.history.acked() if one.filename not in deleted]
    assert acked
    urls = {p: node.file_urls("root/dev", p) for p in {one.project for one in acked}}
    for one in acked:
        name = one.filename or ""
        assert http("GET", urls[one.project][name]).body == world.load.built[name].data, name


def test_killed_replicas(world: World) -> None:
    """Replicas that are killed at random, amid uploads, are equal again ten seconds after their
    start."""
    primary, replicas = world.started(2)
    chance = random.Random(4)
    with world.load.until():
        world.load.upload_to("at-primary", lambda: primary, pace=0.02)
        for node in replicas:
            world.load.read_from(f"reads-{node.name}", node)
        for _ in range(KILLS):
            world.load.wait_acked(chance.randrange(1, 8))
            victim = chance.choice(replicas)
            victim.kill()
            world.load.wait_acked(chance.randrange(1, 8))
            victim.start()
            back = time.monotonic()
    world.converged([primary, *replicas], back)
    world.judged([primary, *replicas])
    check_files(world, replicas[0])


def test_killed_primary(world: World) -> None:
    """A primary that is killed at random under uploads has every acknowledged file, and its
    replicas are equal ten seconds after its last start."""
    primary, replicas = world.started(2)
    chance = random.Random(5)
    with world.load.until():
        for n in range(3):
            world.load.upload_to(f"at-primary-{n}", lambda: primary, pace=0.01)
        world.load.upload_to("through-r1", lambda: replicas[0], pace=0.1)
        world.load.read_from("reads-r2", replicas[1])
        for _ in range(KILLS):
            world.load.wait_acked(chance.randrange(1, 12))
            primary.kill()
            primary.start()
            back = time.monotonic()
        world.load.wait_acked(3)
    world.converged([primary, *replicas], back)
    world.judged([primary, *replicas])
    check_files(world, primary)
    check_files(world, replicas[1])
