"""Promotion, fencing and demotion with real processes: who owns the log, and what becomes of
writes that only the old primary had.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots, upload, wait_visible
from tests.installers import run
from tests.processes import Cluster, Node, eventually

pytestmark = pytest.mark.functional

BOTH, LOST, LATER = (wheel(name, "1.0") for name in ("both", "lost", "later"))
PYMIRROR = str(Path(sys.executable).with_name("pymirror"))


def command(cluster: Cluster, name: str, node: Node, *arguments: str) -> str:
    """An operator's command on a stopped node's folder."""
    return run(
        PYMIRROR, name, "--state-dir", str(node.state_dir),
        "--secret-file", str(cluster.secret_file), "--yes", *arguments,
    )  # fmt: skip


def orphans(node: Node) -> list[Path]:
    """Files with entries that were taken back."""
    return sorted(node.state_dir.glob("orphaned-*.log"))


def test_promotion(tmp_path: Path) -> None:
    """After a promotion every node comes to the new primary's log: the other replica by itself,
    the old primary by one command; what only they had is kept in files, and it takes no more
    writes as soon as it is back."""
    with Cluster(tmp_path) as cluster:
        old = cluster.primary(None, root_password=ROOT_PASSWORD)
        old.put_index("root/dev", ROOT_PASSWORD, type="stage")
        first = cluster.replica(old, "first", "--primary-url", old.url)
        second = cluster.replica(old, "second", "--primary-url", first.url)
        assert upload(old, "root/dev", BOTH).status == 200
        check_same_roots([old, first, second])
        first.terminate()
        assert upload(old, "root/dev", LOST).status == 200
        check_same_roots([old, second])
        old.kill()

        said = command(cluster, "promote", first)
        assert f"{old.url} does not answer" in said
        new = cluster.become(first, "pymirror-primary", "--outside-url", first.url).start()
        assert new.status()["epoch"] == 2
        check_same_roots([new, second], 15)
        assert second.page("root/dev", "lost").status == 404
        (kept,) = orphans(second)
        assert LOST.filename in kept.read_text()
        assert upload(second, "root/dev", LATER).status == 200
        wait_visible(new, "root/dev", LATER, 5)

        old.start()
        eventually(lambda: old.status()["fenced"], 15, "the old primary is fenced")
        refused = upload(old, "root/dev", wheel("more", "1.0"))
        assert refused.status == 503, refused
        assert refused.headers["x-pymirror-primary"] == new.url
        assert int(refused.headers["retry-after"]) > 0
        assert old.page("root/dev", "lost").status == 200
        assert old.restart().status()["fenced"]

        old.terminate()
        assert "only this node has: 2" in command(cluster, "demote", old, "--primary-url", new.url)
        again = cluster.become(old, "pymirror-replica", "--primary-url", new.url).start()
        check_same_roots([new, second, again], 15)
        (kept,) = orphans(again)
        assert LOST.filename in kept.read_text()


def test_planned_switch(tmp_path: Path) -> None:
    """A primary that runs says what would be lost, is fenced before the switch, and its replica
    goes on with the new one, without a restart."""
    with Cluster(tmp_path) as cluster:
        old = cluster.primary(None, root_password=ROOT_PASSWORD)
        old.put_index("root/dev", ROOT_PASSWORD, type="stage")
        first = cluster.replica(old, "first")
        second = cluster.replica(old, "second")
        before = upload(second, "root/dev", BOTH).headers["x-pymirror-position"]
        check_same_roots([old, first, second])
        first.terminate()
        said = command(cluster, "promote", first, "--outside-url", first.url)
        assert "0 entries would be lost" in said
        assert f"{old.url}: fenced" in said
        assert upload(old, "root/dev", LATER).status == 503
        new = cluster.become(first, "pymirror-primary").start()
        # The fenced primary names the new one to those who follow it.
        check_same_roots([new, second], 15)
        after = upload(second, "root/dev", LATER).headers["x-pymirror-position"]
        # A client goes on with what it was told, on whatever node: it reads no less than that.
        assert (before.partition(".")[0], after.partition(".")[0]) == ("1", "2")
        for node in (new, second):
            for project, position in (("both", before), ("later", after)):
                path = f"/root/dev/+simple/{project}/"
                assert node.get(path, X_Pymirror_Min=position).status == 200
        assert old.get("/root/dev/+simple/both/", X_Pymirror_Min=before).status == 200
        assert old.get("/root/dev/+simple/later/", X_Pymirror_Min=after).status == 504


def test_one_owner_of_an_epoch(tmp_path: Path) -> None:
    """A replica that has not heard of a promotion is not promoted to the same epoch."""
    with Cluster(tmp_path) as cluster:
        old = cluster.primary(None, root_password=ROOT_PASSWORD)
        first = cluster.replica(old, "first", "--primary-url", old.url)
        second = cluster.replica(old, "second", "--primary-url", first.url)
        for node in (second, first, old):
            node.terminate()
        command(cluster, "promote", first)
        cluster.become(first, "pymirror-primary").start()
        with pytest.raises(AssertionError, match=f"{first.url} is in epoch 2 already"):
            command(cluster, "promote", second)


def test_restored_backup_stops(tmp_path: Path) -> None:
    """A primary restored from an older backup under the same address is refused by replicas
    (devpi's issue 1073), and stops by what they prove to it; promoted, it goes on, and what only
    replicas have is kept."""
    with Cluster(tmp_path) as cluster:
        primary = cluster.primary(None, root_password=ROOT_PASSWORD)
        primary.put_index("root/dev", ROOT_PASSWORD, type="stage")
        primary.terminate()
        backup = {p: p.read_bytes() for p in primary.state_dir.rglob("*") if p.is_file()}
        primary.start()
        replica = cluster.replica(primary)
        for number in range(3):
            assert upload(primary, "root/dev", wheel(f"new-{number}", "1.0")).status == 200
        check_same_roots([primary, replica])
        root, serial = replica.status()["root"], replica.status()["serial"]
        primary.terminate()
        for path in sorted(primary.state_dir.glob("log.sqlite*")):
            path.unlink()
        for path, data in backup.items():
            path.chmod(0o600) if path.exists() else None
            path.write_bytes(data)
        primary.start()

        def refused() -> bool:
            return bool(replica.status()["follower"]["state"] == "diverged")

        eventually(refused, 15, "the replica refuses the restored primary")
        fenced = eventually(lambda: primary.status()["fenced"], 15, "the primary stops")
        assert fenced["state"] == "restored"
        assert fenced["since"]
        assert "promote" in fenced["hint"]
        answer = upload(primary, "root/dev", wheel("other", "1.0"))
        assert answer.status == 503
        assert "older backup" in answer.reason
        assert primary.restart().status()["fenced"] == fenced
        assert upload(primary, "root/dev", wheel("other", "1.0")).status == 503
        assert primary.status()["serial"] < serial
        eventually(refused, 15, "the replica still refuses it")
        assert (replica.status()["root"], replica.status()["serial"]) == (root, serial)
        assert replica.page("root/dev", "new-2").status == 200

        primary.terminate()
        said = command(cluster, "promote", primary, "--peer", replica.url, "--may-lose", "99")
        assert f"{replica.url}: replica, serial {serial}" in said
        primary.start()
        assert upload(primary, "root/dev", wheel("other", "1.0")).status == 200
        check_same_roots([primary, replica], 15)
        (kept,) = orphans(replica)
        assert "new_2" in kept.read_text()
