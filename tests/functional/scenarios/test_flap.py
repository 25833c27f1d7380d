"""A network that comes and goes leaves nothing behind: no sockets, no polls."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.functional.scenarios.world import World
from tests.processes import Node, eventually

pytestmark = [pytest.mark.functional, pytest.mark.slow]

FLAP_SECONDS = 2.0
FLAPS = 5
_ESTABLISHED = "01"
# Persistent connections come and go with requests; polls do not add up.
_SLACK = 8


def open_files(node: Node) -> int:
    """How many descriptors a node has open."""
    return len(os.listdir(f"/proc/{node.pid}/fd"))


def connections(world: World, node: Node, other: Node) -> int:
    """Established connections of one node to another's port."""
    text = Path(f"/proc/{node.pid}/net/tcp").read_text()
    octets = bytes(map(int, world.lab.address(other.name).split(".")))
    remote = f"{octets[::-1].hex().upper()}:{other.port:04X}"
    rows = [line.split() for line in text.splitlines()[1:]]
    return sum(row[2] == remote and row[3] == _ESTABLISHED for row in rows)


def test_flapping_network(world: World) -> None:
    """After a network that goes and comes every two seconds, replicas are equal within ten
    seconds, and all nodes have about as many sockets as before."""
    primary, replicas = world.started(2)
    nodes = [primary, *replicas]
    with world.load.until():
        world.load.upload_to("at-primary", lambda: primary)
        world.load.upload_to("through-r2", lambda: replicas[1], pace=0.2)
        world.load.wait_acked(10)
        before = [open_files(node) for node in nodes]
        for _ in range(FLAPS):
            for node in replicas:
                world.lab.cut("primary", node.name)
            time.sleep(FLAP_SECONDS)
            healed = world.heal()
            time.sleep(FLAP_SECONDS)
            for node in replicas:
                assert connections(world, node, primary) <= _SLACK
    world.converged(nodes, healed)
    eventually(
        lambda: all(
            open_files(node) <= count + _SLACK for node, count in zip(nodes, before, strict=True)
        ),
        20, "sockets are closed",
    )  # fmt: skip
    world.judged(nodes)
