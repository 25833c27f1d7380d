"""A cluster that goes to the next version and back, node by node, while clients work."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from cluster.cli.asking import NodeAnswers
from cluster.cli.comparing import OtherTables, Pair, compare_log, compare_pages, compare_state
from cluster.state import schema
from cluster.version import __version__
from tests.builders import Built, wheel
from tests.functional.helpers import (
    ROOT_PASSWORD,
    check_same_files,
    check_same_roots,
    upload,
    wait_visible,
)
from tests.functional.scenarios.load import Load
from tests.functional.scenarios.world import INDEX, entries_of, log_of, standing
from tests.history import Action, Outcome, judge
from tests.nextversion import NEWS, TABLES, VERSION, next_version
from tests.processes import CHECKOUT, Cluster, Node, eventually

pytestmark = [pytest.mark.functional, pytest.mark.slow]

EQUAL_SECONDS = 10.0
CUT = ("--snapshot-every", "4", "--keep-entries", "0", "--keep-days", "0")


@define
class Site:
    """A primary, two replicas, and the clients of all three."""

    cluster: Cluster
    primary: Node
    replicas: list[Node]
    load: Load = field(factory=Load)

    @property
    def nodes(self) -> list[Node]:
        return [self.primary, *self.replicas]

    def bring(self, node: Node, packages: Path) -> None:
        """Stop a node and start it with other packages, while clients upload through both
        replicas and read from all nodes; the others serve throughout, and all are equal then."""
        others = [other for other in self.nodes if other is not node]
        step = f"{node.name}.{packages.name}"
        with self.load.until():
            for replica in self.replicas:
                self.load.upload_to(f"{step}-through-{replica.name}", lambda r=replica: r)  # type: ignore[misc]
            for one in self.nodes:
                self.load.read_from(f"{step}-{one.name}", one)
            self.load.wait_acked(3)
            began = time.monotonic()
            self.restart(node, packages)
            ended = time.monotonic()
            self.load.wait_acked(3)
        for other in others:
            self._served(f"{step}-{other.name}", began, ended)
        self.check_equal()

    def restart(self, node: Node, packages: Path) -> None:
        """Stop a node, and start it with these packages."""
        node.terminate()
        node.packages = packages
        node.start()
        assert node.status()["version"] == (__version__ if packages == CHECKOUT else VERSION)

    def _served(self, session: str, began: float, ended: float) -> None:
        """Every read of a client between two moments was answered."""
        seen = [
            one.outcome
            for one in self.load.history.operations
            if one.session == session and began <= one.began <= ended
        ]
        assert seen, session
        assert set(seen) == {Outcome.OK}, session

    def check_equal(self) -> None:
        """Log, state and pages of the replicas are the primary's."""
        check_same_roots(self.nodes, EQUAL_SECONDS)
        for replica in self.replicas:
            check_verified(self.cluster, replica, self.primary)

    def check_history(self) -> None:
        """What clients saw is what the log says, and each file is served as it was sent."""
        history, log = self.load.history, log_of(entries_of(self.primary))
        found = judge(history.operations, [log], [standing(node) for node in self.nodes])
        assert found == [], found[:3]
        assert self.load.surprises == [], self.load.surprises[:3]
        acked = {one.filename or "" for one in history.acked()} - history.tried_to_delete()
        check_same_files([self.primary], INDEX, [self.load.built[name] for name in sorted(acked)])


def check_verified(cluster: Cluster, node: Node, other: Node) -> None:
    """`pymirror verify` finds no difference; only rows of two versions cannot be compared."""
    asking = NodeAnswers(cluster.secret_file.read_bytes().strip(), "test-upgrade", time.time)
    pair = Pair(asking, node.url, other.url, None)
    for compare in (compare_log, compare_state, compare_pages):
        try:
            compare(pair, lambda done, total: None)
        except OtherTables:
            assert node.packages != other.packages


def started(nodes: Cluster, *primary_options: str) -> Site:
    """All at this version."""
    primary = nodes.primary(None, *primary_options, root_password=ROOT_PASSWORD)
    primary.put_index(INDEX, ROOT_PASSWORD, type="stage")
    replicas = [nodes.replica(primary, name, "--files", "full") for name in ("r1", "r2")]
    return Site(nodes, primary, replicas)


def refuses_to_start(node: Node, packages: Path) -> str:
    """A stopped node's last words with other packages; it goes on with those that it has."""
    before, node.packages = node.packages, packages
    said = len(node.log_text())
    node.launch()
    eventually(lambda: not node.running, 20, f"{node.name} ends")
    assert node.terminate() == 1
    node.packages = before
    return node.log_text()[said:].split("pymirror cannot start: ")[1].strip()


def pymirror(packages: Path, *arguments: str) -> str:
    """What a command says that succeeds; questions are answered by yes."""
    program = Path(sys.executable).with_name("pymirror")
    done = subprocess.run(
        [program, *arguments], input="y\n", capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(packages), "PATH": "/usr/bin:/bin"}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_up_and_down(nodes: Cluster, tmp_path: Path) -> None:
    """Replicas, then the primary, to the next version and back: at each step the other nodes
    serve, writes succeed when they are tried again, nothing acknowledged is lost, and all nodes
    are equal."""
    later = next_version(tmp_path)
    site = started(nodes)
    for packages, order in (
        (later, [*site.replicas, site.primary]), (CHECKOUT, [site.primary, *site.replicas]),
    ):  # fmt: skip
        for node in order:
            site.bring(node, packages)
    site.check_history()
    # None: the replica that a client uploads through was away itself.
    uploads = [one for one in site.load.history.operations if one.action is Action.UPLOAD]
    seen = {one.status for one in uploads}
    assert seen == {200, 503, None}
    recorded = [entry for entry in entries_of(site.primary) if entry["kind"] == "file.added"]
    assert {entry.get("mood") for entry in recorded} == {None, "good"}


def test_news_to_a_replica(nodes: Cluster, tmp_path: Path) -> None:
    """Replicas of this version stop at what the next one records, say so, and go on serving;
    upgraded, they have it. The primary cannot go back behind it."""
    later, built = next_version(tmp_path), [wheel("before", "1"), wheel(NEWS, "1")]
    site = started(nodes)
    assert upload(site.primary, INDEX, built[0]).status == 200
    site.check_equal()
    site.restart(site.primary, later)
    assert upload(site.primary, INDEX, built[1]).status == 200
    for replica in site.replicas:
        check_needs_upgrade(site.primary, replica, built[0])
    before, through = time.monotonic(), wheel("through", "1")
    assert upload(site.replicas[0], INDEX, through).status == 200
    assert time.monotonic() - before < 10, "it was waited for a replica that is stuck"
    wait_visible(site.primary, INDEX, through, 1)
    site.primary.terminate()
    said = refuses_to_start(site.primary, CHECKOUT)
    assert "was recorded by a newer pymirror, install that again" in said
    assert "'tidings.set'" in said
    site.primary.start()
    for replica in site.replicas:
        site.restart(replica, later)
        wait_visible(replica, INDEX, built[1], EQUAL_SECONDS)
        wait_visible(replica, INDEX, through, EQUAL_SECONDS)
    site.check_equal()
    assert upload(site.replicas[0], INDEX, wheel(NEWS, "2")).status == 200
    site.check_equal()


def check_needs_upgrade(primary: Node, replica: Node, built: Built) -> None:
    """A replica has stopped, tells why on its own page and on the primary's, and serves."""

    def stopped() -> dict[str, Any] | None:
        follower: dict[str, Any] = replica.status()["follower"]
        return follower if follower["state"] == "needs-upgrade" else None

    follower = eventually(stopped, 10, f"{replica.name} stops")
    assert "a change of kind 'tidings.set' is unknown: upgrade this node" in follower["last_error"]
    assert follower["hint"] == "install the primary's version of pymirror there"
    assert replica.get("/+ready").status == 200
    wait_visible(replica, INDEX, built, 1)

    def told() -> bool:
        row = next(one for one in primary.status()["replicas"] if one["uuid"] == uuid)
        return (row["state"], row["hint"]) == ("needs-upgrade", follower["hint"])

    uuid = replica.status()["uuid"]
    eventually(told, 15, f"the primary knows of {replica.name}")


def test_other_tables(nodes: Cluster, tmp_path: Path) -> None:
    """Where the tables change: a whole log refills them, a part of one has its rows brought
    along, and a new snapshot is made. Back, a node refuses what it does not know and says what to
    do; doing that brings the whole cluster back, with all that was uploaded."""
    later = next_version(tmp_path, tables=True)
    site = started(nodes, *CUT)
    r1, r2 = site.replicas
    built = [wheel(f"early-{number}", "1") for number in range(12)]
    for one in built:
        assert upload(site.primary, INDEX, one).status == 200
    eventually(lambda: site.primary.status()["minimum"] > 4, 20, "the log is cut")
    site.check_equal()
    r2.terminate()
    start_afresh(r2)
    assert first_entries(site.nodes) == [False, True, False]
    for number, node in enumerate((r1, r2, site.primary)):
        site.restart(node, later)
        built.append(wheel(f"later-{number}", "1"))
        assert upload(r1, INDEX, built[-1]).status == 200
        site.check_equal()
    newest = site.primary.status()["snapshots"][-1]
    assert newest["schema"] == TABLES
    go_back(site, later)
    for one in built:
        wait_visible(r2, INDEX, one, 5)


def start_afresh(node: Node) -> None:
    """As the messages have it: the log is removed, files and identity stay; not ready until the
    log is there again."""
    (node.state_dir / "log.sqlite").unlink()
    node.start()
    assert node.status()["in_sync"]["metadata"]


def first_entries(nodes: Sequence[Node]) -> list[bool]:
    """Whether the logs begin at their first entry."""
    return [entries_of(node)[0]["serial"] == 1 for node in nodes]


def go_back(site: Site, later: Path) -> None:
    """The replica that has the whole log gets this version's tables and becomes the primary; the
    others start afresh from it."""
    old, (r1, r2), way = site.primary, site.replicas, "log.sqlite is removed"
    for node, says in ((r1, "`pymirror rebuild` refills it"), (r2, way), (old, way)):
        node.terminate()
        said = refuses_to_start(node, CHECKOUT)
        assert f"of version {TABLES}, made by a newer pymirror; this one knows" in said
        assert says in said
        node.packages = CHECKOUT
    folder, secret = str(r1.state_dir), str(site.cluster.secret_file)
    said = pymirror(CHECKOUT, "rebuild", "--state-dir", folder)
    assert f"had been of version {TABLES}, it is of {schema.VERSION} now" in said
    pymirror(
        CHECKOUT, "promote", "--state-dir", folder, "--secret-file", secret,
        "--outside-url", r1.url,
    )  # fmt: skip
    site.primary = site.cluster.become(r1, "pymirror-primary").start()
    pymirror(
        later, "demote", "--state-dir", str(old.state_dir), "--secret-file", secret,
        "--primary-url", r1.url,
    )  # fmt: skip
    site.replicas = [
        site.cluster.become(node, "pymirror-replica", "--primary-url", r1.url) for node in (old, r2)
    ]
    for node in site.replicas:
        start_afresh(node)
    site.check_equal()
