"""SIGKILL at any time loses nothing that was acknowledged, on either kind of node."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

import pytest
from attrs import define, field

from tests.builders import Built, wheel
from tests.functional.helpers import (
    ROOT_PASSWORD,
    check_same_files,
    check_same_pages,
    check_same_roots,
    no_temporary_files,
    upload,
)
from tests.processes import Cluster, Node, eventually, http

pytestmark = [pytest.mark.functional, pytest.mark.slow]

KILLS = 30


@define
class Uploaders:
    """Threads that upload one file after the other, again and again until it is acknowledged."""

    node: Node
    acknowledged: list[Built] = field(factory=list)
    serials: list[int] = field(factory=list)
    surprises: list[object] = field(factory=list)
    _stop: threading.Event = field(factory=threading.Event)

    @contextmanager
    def running(self, threads: int) -> Iterator[None]:
        """Upload while the block runs; then finish the file at hand."""
        crew = [threading.Thread(target=self._work, args=[n]) for n in range(threads)]
        for one in crew:
            one.start()
        try:
            yield
        finally:
            self._stop.set()
            for one in crew:
                one.join(60)

    def _work(self, worker: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            built = wheel(f"kill-{worker}", f"1.{number}", size=20_000)
            # Some breath between files: the point is when the kill comes, not how many there are.
            while not self._once(built) and not self._stop.wait(0.03):
                pass
            self._stop.wait(0.03)

    def _once(self, built: Built) -> bool:
        try:
            answer = upload(self.node, "root/dev", built)
        except (OSError, HTTPException):
            return False
        if answer.status != 200:
            if answer.status != 503:
                self.surprises.append(answer)
            return False
        self.acknowledged.append(built)
        self.serials.append(int(answer.headers["x-pymirror-serial"]))
        return True

    def wait_more(self, count: int) -> None:
        """Wait until so many more uploads are acknowledged."""
        goal = len(self.acknowledged) + count
        eventually(lambda: len(self.acknowledged) >= goal, 20, f"{count} more uploads")


def _check_all_there(uploaders: Uploaders, primary: Node, replica: Node) -> None:
    assert uploaders.surprises == []
    # A replica that found nobody several times in a row waits longer each time.
    check_same_roots((primary, replica), seconds=40)
    status = primary.status()
    assert max(uploaders.serials) <= status["serial"]
    names = sorted({built.name for built in uploaders.acknowledged})
    for node in (primary, replica):
        urls = {name: node.file_urls("root/dev", name) for name in names}
        for built in uploaders.acknowledged:
            assert http("GET", urls[built.name][built.filename]).body == built.data
    check_same_pages((primary, replica), "root/dev", ["", *names])
    no_temporary_files(primary, replica)


def _pair(nodes: Cluster) -> tuple[Node, Node]:
    primary = nodes.primary(root_password=ROOT_PASSWORD)
    primary.put_index("root/dev", ROOT_PASSWORD, type="stage")
    return primary, nodes.replica(primary)


@pytest.mark.timeout(900)
def test_killed_primary(nodes: Cluster) -> None:
    """A primary that is killed 30 times amid uploads keeps every acknowledged file, and its
    replica ends up with the same log and pages."""
    primary, replica = _pair(nodes)
    uploaders, chance = Uploaders(primary), random.Random(1)
    with uploaders.running(3):
        for _ in range(KILLS):
            uploaders.wait_more(chance.randrange(1, 8))
            primary.kill()
            primary.start()
        uploaders.wait_more(3)
    _check_all_there(uploaders, primary, replica)
    assert len(uploaders.acknowledged) > KILLS


@pytest.mark.timeout(900)
def test_killed_replica(nodes: Cluster) -> None:
    """A replica that is killed 30 times while it follows ends up with the same log and files."""
    primary, replica = _pair(nodes)
    uploaders, chance = Uploaders(primary), random.Random(2)
    with uploaders.running(2):
        for _ in range(KILLS):
            uploaders.wait_more(chance.randrange(1, 8))
            # Files are on their way too when the replica is killed.
            built = uploaders.acknowledged[-1]
            threading.Thread(target=_try_get, args=[replica, built], daemon=True).start()
            replica.kill()
            replica.start()
    _check_all_there(uploaders, primary, replica)


@pytest.mark.timeout(900)
def test_killed_primary_under_forwarded_uploads(nodes: Cluster) -> None:
    """An upload that a replica acknowledged survives the primary's death too."""
    primary, replica = _pair(nodes)
    uploaders, chance = Uploaders(replica), random.Random(3)
    with uploaders.running(2):
        for _ in range(5):
            uploaders.wait_more(chance.randrange(1, 8))
            primary.kill()
            primary.start()
        uploaders.wait_more(3)
    _check_all_there(uploaders, primary, replica)
    check_same_files((primary, replica), "root/dev", uploaders.acknowledged[-3:])


def _try_get(node: Node, built: Built) -> None:
    try:
        for url in node.file_urls("root/dev", built.name).values():
            http("GET", url)
    except (OSError, HTTPException, AssertionError):
        return  # the node was killed meanwhile, which is the point
