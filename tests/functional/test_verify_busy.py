"""`pymirror verify` beside the work of a cluster: uploads that come in, a node that stays behind,
and files read at a rate."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.builders import wheel
from tests.functional.helpers import check_same_roots, upload
from tests.functional.test_verify import Trio, pair, verify
from tests.processes import Node

__all__ = ["pair"]
pytestmark = [pytest.mark.functional, pytest.mark.slow]


@contextmanager
def uploads(node: Node, per_second: int) -> Iterator[list[float]]:
    """Files come in at a rate; in the end the list holds how many a second really did."""
    stop, count, begun, done = threading.Event(), 0, time.monotonic(), list[float]()

    def client(name: str, number: int) -> None:
        nonlocal count
        while not stop.wait(max(0.0, begun + count / per_second - time.monotonic())):
            count, number = count + 1, number + 1
            answer = upload(node, "root/dev", wheel(name, f"1.{number}"))
            assert answer.status == 200, answer

    names = ("busy", "busy", "project-3", "project-2")
    threads = [
        threading.Thread(target=client, args=(name, 10_000 * (at + 1)))
        for at, name in enumerate(names)
    ]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        done.append(count / (time.monotonic() - begun))


def test_a_busy_cluster(pair: Trio) -> None:
    """While 30 files a second come in, most of them for one project, the nodes are equal on all
    levels, and a row that differs is still found."""
    cluster, primary, replica = pair
    damaged = cluster.replica(primary, "busy")
    damaged.terminate()
    statement = "UPDATE files SET serial = serial + 1 WHERE project = 'project-1'"
    with closing(sqlite3.connect(damaged.state_dir / "log.sqlite")) as connection, connection:
        assert connection.execute(statement).rowcount > 0
    damaged.start()
    with uploads(primary, 30) as done:
        code, said = verify(cluster, replica, primary, 4)
        assert (code, said["equal"]) == (0, True), said
        assert verify(cluster, primary, replica, 4)[0] == 0
        code, said = verify(cluster, primary, damaged, 2)
        assert (code, said["differences"]) == (1, ["the state of root/dev project-1"]), said
    damaged.terminate()
    assert done[-1] > 20, done
    check_same_roots([primary, replica])


def test_a_node_that_does_not_follow(pair: Trio) -> None:
    """The state of one that stays behind cannot be compared, and it is said why."""
    cluster, primary, _ = pair
    behind = cluster.replica(primary, "behind")
    check_same_roots([primary, behind])
    behind.terminate()
    behind._command[behind._command.index("--primary-url") + 1] = "http://127.0.0.1:1"
    behind.start()
    serial = behind.status()["serial"]
    assert upload(primary, "root/dev", wheel("project-0", "7.0")).status == 200
    code, said = verify(cluster, primary, behind, 2)
    assert (code, said["levels"]["log"]["equal"]) == (2, True)
    assert f"one node stays at serial {serial}" in said["unable"][0]
    behind.terminate()


def test_rate(pair: Trio) -> None:
    """Files are read no faster than was said."""
    cluster, primary, replica = pair
    code, said = verify(cluster, replica, primary, 4, "--all")
    assert code == 0, said
    size = said["levels"]["files"]["bytes"]
    before = time.monotonic()
    code, slow = verify(cluster, replica, primary, 4, "--all", "--rate", f"{size // 5}B/s")
    assert (code, slow["levels"]) == (code, said["levels"])
    assert time.monotonic() - before > 4
