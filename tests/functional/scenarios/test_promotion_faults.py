"""Promotion while the old primary is cut off, paused, lost with its disk, or restored."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.builders import Built, wheel
from tests.functional.helpers import ROOT_PASSWORD, wait_visible
from tests.functional.scenarios.load import send
from tests.functional.scenarios.test_crashes import check_files
from tests.functional.scenarios.world import INDEX, World, entries_of, standing
from tests.history import WRITES
from tests.installers import run, twine_upload
from tests.processes import Node, eventually

pytestmark = [pytest.mark.functional, pytest.mark.slow]

TWINED = wheel("p0", "9")
PYMIRROR = str(Path(sys.executable).with_name("pymirror"))


def operate(world: World, command: str, node: Node, *arguments: str) -> str:
    """An operator's command, on the host of a stopped node."""
    with world.lab.inside(node.name):
        return run(
            PYMIRROR, command, "--state-dir", str(node.state_dir),
            "--secret-file", str(world.secret_file), "--yes", *arguments,
        )  # fmt: skip


def promoted(world: World, node: Node, *options: str) -> Node:
    """The new primary, made of a running replica."""
    node.terminate()
    operate(world, "promote", node)
    return world.become(
        node, "pymirror-primary", "--outside-url", node.url, *options
    ).start()  # fmt: skip


def demoted(world: World, old: Node, new: Node) -> Node:
    """The old primary as a replica, started."""
    old.terminate()
    operate(world, "demote", old, "--primary-url", new.url)
    return world.become(old, "pymirror-replica", "--primary-url", new.url).start()


def twine_until_taken(node: Node, built: Built, folder: Path) -> int:
    """Run twine until it has uploaded a file; how often it had to be run."""
    for tries in range(1, 40):
        try:
            twine_upload(
                f"{node.url}/{INDEX}/", built, folder=folder, user="root", password=ROOT_PASSWORD
            )
        except AssertionError as error:
            assert "503" in str(error), error  # noqa: PT017
            time.sleep(1)
        else:
            return tries
    raise AssertionError("twine did not get through")


def check_writers(world: World, nodes: list[Node]) -> None:
    """At most one node wrote in each epoch: what two logs hold at one place is the same, if it
    is of one epoch."""
    seen: dict[tuple[int, int], dict[str, Any]] = {}
    orphans = [
        orjson.loads(line)
        for path in world.directory.glob("*/orphaned-*.log")
        for line in path.read_bytes().splitlines()
    ]
    for entry in chain(orphans, *(entries_of(node) for node in nodes)):
        place = (entry["epoch"], entry["serial"])
        assert seen.setdefault(place, entry) == entry


def test_promotion_while_cut(world: World) -> None:
    """A primary that only its clients reach goes on until it meets the new one; then it takes
    nothing more, and what only it had is in a file. A client of a replica that tries again gets
    through, with twine."""
    old = world.primary(None, root_password=ROOT_PASSWORD)
    old.put_index(INDEX, ROOT_PASSWORD, type="stage")
    candidate = f"http://{world.lab.address('r1')}:{old.port}"
    r1 = world.following(old, "r1").start()
    r2 = world.following(old, "r2", "--primary-url", candidate).start()
    with world.load.until():
        world.load.upload_to("at-old", lambda: old)
        world.load.upload_to("through-r2", lambda: r2, pace=0.1)
        world.load.read_from("reads-r2", r2)
        world.load.wait_acked(15)
        world.lab.isolate("primary", but=["client"])
        with ThreadPoolExecutor(1) as pool:
            tries = pool.submit(twine_until_taken, r2, TWINED, world.directory / "dist")
            new = promoted(world, r1)
            world.load.upload_to("at-new", lambda: new)
            assert tries.result(60)
        wait_visible(new, INDEX, TWINED, 5)
        world.load.wait_acked(10)
        assert old.status()["fenced"] is None
        healed = world.heal()
        eventually(lambda: old.status()["fenced"], 10, "the old primary is fenced")
        fenced = time.monotonic()
        answer = send(old, wheel("p1", "99"))
        assert answer.status == 503
        assert answer.headers["x-pymirror-primary"] == new.url
        world.load.wait_acked(5)
    waited = [o for o in world.load.history.operations if o.session == "through-r2"]
    assert 503 in [o.status for o in waited]
    late = [
        o for o in world.load.history.acked(*WRITES) if o.session == "at-old" and o.began > fenced
    ]
    assert late == []
    world.converged([new, r2], healed)
    again = demoted(world, old, new)
    world.converged([new, r2, again], time.monotonic())
    assert list(again.state_dir.glob("orphaned-*.log"))
    check_writers(world, [new, r2, again])
    world.judged([new, r2, again])


def test_lost_primary(world: World) -> None:
    """With one replica to be waited for, the loss of the primary with its disk loses nothing
    that was acknowledged: the replica that is furthest has all of it, and gets the files that it
    lacks from the other."""
    world.load.level = 1
    old = world.primary(None, "--sync-replicas", "1", root_password=ROOT_PASSWORD)
    r1 = world.following(old, "r1", "--files", "full").start()
    r2 = world.following(
        old, "r2", "--files", "full", "--primary-url", f"http://{world.lab.address('r1')}:{old.port}",
    ).start()  # fmt: skip
    old.put_index(INDEX, ROOT_PASSWORD, type="stage")
    with world.load.until():
        for n in range(2):
            world.load.upload_to(f"at-old-{n}", lambda: old, pace=0.02)
        world.load.wait_acked(25)
        old.kill()
        shutil.rmtree(old.state_dir)
    further, other = sorted((r1, r2), key=lambda n: n.status()["serial"])[::-1]
    new = promoted(world, further)
    began = time.monotonic()
    if other is r1:  # it knows the old primary's URL alone
        other.terminate()
        other = world.following(new, "r1", "--files", "full").start()
        began = time.monotonic()
    world.converged([new, other], began)
    check_writers(world, [new, other])
    world.judged([new, other])
    check_files(world, new)


def test_paused_primary(world: World) -> None:
    """A primary that was paused over a promotion acknowledges nothing when it goes on."""
    world.load.level = 1
    old = world.primary(None, "--sync-replicas", "1", root_password=ROOT_PASSWORD)
    r1 = world.following(old, "r1", "--files", "full").start()
    r2 = world.following(old, "r2", "--files", "full").start()
    old.put_index(INDEX, ROOT_PASSWORD, type="stage")
    with world.load.until():
        for n in range(3):
            world.load.upload_to(f"at-old-{n}", lambda: old)
        world.load.wait_acked(15)
        os.kill(old.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        new = promoted(world, r1, "--sync-replicas", "0")
        os.kill(old.pid, signal.SIGCONT)
        eventually(lambda: old.status()["fenced"], 20, "the old primary is fenced")
        world.converged([new, r2], time.monotonic())
    late = [o for o in world.load.history.acked(*WRITES) if o.ended > stopped + 0.5]
    assert late == []
    again = demoted(world, old, new)
    world.converged([new, r2, again], time.monotonic())
    check_writers(world, [new, r2, again])
    world.judged([new, r2, again])


def test_restored_backup(world: World) -> None:
    """Of a primary that was restored from an older backup under the same address nothing is
    applied, by no replica (devpi's issue 1073), and it stops by what they prove to it, whatever
    it has written by then."""
    primary, replicas = world.started()
    primary.terminate()
    backup = world.directory / "backup"
    shutil.copytree(primary.state_dir, backup)
    primary.start()
    with world.load.until():
        world.load.upload_to("before", lambda: primary, pace=0.01)
        world.load.wait_acked(10)
    world.converged([primary, *replicas], time.monotonic())
    held = [standing(node) for node in replicas]
    primary.terminate()
    shutil.rmtree(primary.state_dir)
    shutil.copytree(backup, primary.state_dir)
    primary.start()
    taken = [send(primary, wheel("other", f"{number}")).status for number in range(20)]
    assert set(taken) <= {200, 503}  # until a replica has shown what this primary has signed
    eventually(lambda: primary.status()["fenced"], 15, "the restored primary stops")
    assert primary.status()["fenced"]["state"] == "restored"
    assert send(primary, wheel("other", "99")).status == 503
    for node in replicas:
        eventually(
            lambda node=node: node.status()["follower"]["state"] == "diverged",  # type: ignore[misc]
            15, f"{node.name} refuses it",
        )  # fmt: skip
    assert [standing(node) for node in replicas] == held
    for node in replicas:
        assert node.page("root/dev", "other").status == 404
        assert node.page("root/dev", "p1").status == 200
