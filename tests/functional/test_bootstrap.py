"""Real nodes: a replica starts from a snapshot, through kills, and where the log has been cut."""

from __future__ import annotations

import base64
import random
import time
from contextlib import closing
from sqlite3 import connect
from typing import Any

import pytest

from bench.longlog import make_log
from cluster.cli.snapshot import make_snapshot
from cluster.log.merkle import TILE_WIDTH, frontier_at
from cluster.protocol import NODE_HEADER, decode_tail, node_token
from tests.builders import Built, wheel
from tests.functional.helpers import (
    ROOT_PASSWORD,
    check_same_pages,
    check_same_roots,
    upload,
)
from tests.processes import Answer, Cluster, Node, basic, eventually, http

pytestmark = [pytest.mark.functional, pytest.mark.slow]

LONG = 21_000
CUT = ("--snapshot-every", "4", "--keep-entries", "0", "--keep-days", "0")


def long_primary(nodes: Cluster) -> Node:
    """A primary with a log that is long enough for a snapshot, and that."""
    primary = nodes.node("primary", "pymirror-primary", ["--no-root-pypi"])
    make_log(primary.state_dir, LONG)
    primary.start()
    eventually(lambda: primary.status()["snapshots"], 60, "a snapshot")
    return primary


def first_entry(node: Node) -> int:
    """The first serial in the log of a stopped node; 0 for none."""
    with closing(connect(node.state_dir / "log.sqlite")) as database:
        return database.execute("SELECT min(serial) FROM log").fetchone()[0] or 0


def test_killed_while_it_starts(nodes: Cluster) -> None:
    """A fresh replica that is killed again and again on its way starts from the snapshot all the
    same: log and pages are the primary's, and nothing is left of the attempts."""
    primary = long_primary(nodes)
    replica = nodes.node("replica", "pymirror-replica", ["--primary-url", primary.url])
    chance, here = random.Random(4), replica.state_dir / "bootstrap"
    for _ in range(12):
        replica.launch()
        # From the moment at which there is something to lose, a random part of what it takes.
        eventually(lambda: here.exists() or caught_up(replica), 30, "the replica begins")
        time.sleep(chance.uniform(0.0, 1.2))
        replica.kill()
    replica.start(seconds=60)
    check_same_roots((primary, replica))
    check_same_pages((primary, replica), "root/dev", ["", "project-3", "project-500"])
    check_same_pages((primary, replica), "root/pypi", ["project-7"])
    assert "starting from the snapshot" in replica.log_text()
    replica.restart()
    eventually(lambda: not here.exists(), 10, "the chunks are gone")
    replica.terminate()
    assert first_entry(replica) in (0, LONG + 1)
    files = {path.name for path in replica.state_dir.glob("log*.sqlite")}
    assert files == {"log.sqlite", (replica.state_dir / "log.sqlite").readlink().name}


def caught_up(node: Node) -> bool:
    return (node.state_dir / "caught-up").exists()


def cluster_with_a_cut_log(nodes: Cluster) -> tuple[Node, Node, list[Built]]:
    """A primary that cuts its log often, and a stopped replica that saw the beginning of it."""
    primary = nodes.primary(None, *CUT, root_password=ROOT_PASSWORD)
    primary.put_index("root/dev", ROOT_PASSWORD, type="stage")
    replica = nodes.replica(primary)
    built = [wheel("early", "1.0")]
    assert upload(primary, "root/dev", built[0]).status == 200
    check_same_roots((primary, replica))
    replica.terminate()
    return primary, replica, built


def wait_more(primary: Node, before: list[Any]) -> None:
    eventually(lambda: primary.status()["snapshots"] != before, 90, "one more snapshot")


def snapshots_later(primary: Node, count: int, name: str = "late") -> list[Built]:
    """Upload until so many more snapshots have been made, one after the other."""
    built = []
    for number in range(count):
        before = primary.status()["snapshots"]
        for part in range(4):
            built.append(wheel(f"{name}-{number}", f"1.{part}"))
            assert upload(primary, "root/dev", built[-1]).status == 200
        wait_more(primary, before)
    return built


def test_a_replica_from_before_the_cut(nodes: Cluster) -> None:
    """A replica whose next entry is gone, three snapshots later, starts from the newest, with its
    own old state serving until then; searches and logins see the new state."""
    primary, replica, built = cluster_with_a_cut_log(nodes)
    position = position_of(replica)
    built += snapshots_later(primary, 4)
    eventually(lambda: primary.status()["minimum"] > position, 60, "the log is cut")
    password = {**basic("root", ROOT_PASSWORD), "Content-Type": "application/json"}
    body = b'{"password": "another secret of ann"}'
    made = primary.request("PUT", "/ann", body=body, headers=password)
    assert made.status == 201
    built += snapshots_later(primary, 1, "later")
    replica.start()
    check_same_roots((primary, replica), seconds=30)
    names = sorted({one.name for one in built})
    check_same_pages((primary, replica), "root/dev", ["", *names])
    assert "starting from the snapshot" in replica.log_text()
    eventually(lambda: finds(replica, "late-2"), 20, "the search knows the new state")
    serial = primary.status()["serial"]
    primary.terminate()
    login = replica.request(
        "POST", "/+login", body=b'{"user": "ann", "password": "another secret of ann"}',
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    assert login.status == 200
    assert replica.status()["serial"] == serial
    replica.terminate()
    assert first_entry(replica) == 0 or first_entry(replica) > position + 1


def position_of(node: Node) -> int:
    with closing(connect(node.state_dir / "log.sqlite")) as database:
        serial: int = database.execute("SELECT max(serial) FROM log").fetchone()[0]
        return serial


def finds(node: Node, name: str) -> bool:
    answer = node.get(f"/+search?query={name}", accept="application/json")
    return answer.status == 200 and name in answer.body.decode()


def settled(primary: Node) -> dict[str, Any] | None:
    """The status, when neither a snapshot nor a cut is due."""
    status = primary.status()
    older, newest = (one["serial"] for one in status["snapshots"])
    return status if status["minimum"] == older and status["serial"] - newest < 4 else None


def tail(nodes: Cluster, primary: Node, start: int) -> Answer:
    """Ask for the log behind `start`, with the right root, as a replica does."""

    def tile(level: int, number: int) -> bytes:
        for width in range(TILE_WIDTH, 0, -1):
            answer = primary.get(f"/+log/tile/{level}/{number}.p/{width}")
            if answer.status == 200:
                return answer.body
        raise AssertionError(f"no tile {level}/{number}")

    root = base64.urlsafe_b64encode(frontier_at(start, tile).root).decode()
    log = primary.status()["log_identity"]["log"]
    secret = nodes.secret_file.read_bytes().strip()
    return http(
        "GET", f"{primary.url}/+log/tail?log={log}&from={start}&root={root}&wait=0",
        headers={NODE_HEADER: node_token(secret, "node", time.time())},
    )  # fmt: skip


def test_both_edges_of_the_cut(nodes: Cluster) -> None:
    """At exactly the minimum a replica gets the next entry; one below, it is told the minimum and
    the newest snapshot. Tiles and so every root are there for both."""
    primary, _, _ = cluster_with_a_cut_log(nodes)
    snapshots_later(primary, 3)
    status = eventually(lambda: settled(primary), 60, "the log is cut at the older snapshot")
    least = status["minimum"]
    good = tail(nodes, primary, least)
    assert good.status == 200
    assert b'"serial":%d,' % (least + 1) in decode_tail(good.body).entries[0]
    for start in (least - 1, 0):
        gone = tail(nodes, primary, start)
        assert gone.status == 410
        assert gone.json() == {
            "minimum": least, "snapshot": status["snapshots"][-1]["serial"],
        }  # fmt: skip
    fresh = nodes.replica(primary, "fresh")
    check_same_roots((primary, fresh))


def test_root_has_one_made(nodes: Cluster) -> None:
    """`pymirror snapshot make` works for root alone; nobody but nodes gets a snapshot."""
    primary = nodes.primary(None, root_password=ROOT_PASSWORD)
    assert primary.status()["snapshots"] == []
    assert primary.request("POST", "/+log/snapshots").status == 401
    serial = make_snapshot(primary.url, "root", ROOT_PASSWORD)
    assert serial == primary.status()["serial"]
    for path in ("snapshots", f"snapshot/{serial}/manifest", f"snapshot/{serial}/0"):
        assert primary.get(f"/+log/{path}").status == 401
    assert primary.restart().status()["snapshots"][0]["serial"] == serial
