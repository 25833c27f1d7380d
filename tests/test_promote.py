"""`pymirror promote` before it changes anything: what would be lost, and who says yes to that."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from click.testing import CliRunner, Result

from cluster import peers
from cluster.cli import promote as command
from cluster.cli.asking import Asked
from cluster.errors import LogError
from cluster.log.changes import Change
from cluster.log.epochs import Start
from cluster.log.merkle import Frontier, leaf_hash
from cluster.promotion import FENCE_FILE, FENCED_FILE, NotPossible, opened, standing, uuid_of
from cluster.protocol import FENCE_PATH
from tests.fakes import KEY, LOG, entries, user_set
from tests.test_rollback import folder_of, users

OLD, NEAR, FAR, SILENT = (f"http://{name}.example" for name in ("old", "near", "far", "silent"))


@define
class Nodes:
    """Answers of other nodes; each primary has more when it is fenced than it had before."""

    serials: dict[str, int]
    meanwhile: int = 0
    epoch: int = 1
    log: str = LOG
    logs: dict[str, list[Change]] = field(factory=dict)
    begun: list[Start] = field(factory=list)
    fenced: list[str] = field(factory=list)
    asked: list[str] = field(factory=list)

    def ask(self, method: str, url: str, body: object = None) -> Asked:
        """As `NodeAnswers.ask`."""
        node, _, path = url.partition("/+")
        if node not in self.serials:
            return Asked(0, {}, "no route to host")
        if f"/+{path}" == FENCE_PATH:
            assert body == {"epoch": self.epoch + 1, "url": None, "begun": False}
            if node != OLD:
                return Asked(421, {}, "a replica")
            self.fenced.append(node)
            self.serials[node] += self.meanwhile
            return Asked(200, {}, "")
        self.asked.append(node)
        role = "primary" if node == OLD else "replica"
        return Asked(200, {
            "role": role, "uuid": node, "epoch": self.epoch, "serial": self.serials[node],
            "log_identity": {"log": self.log, "key": KEY},
            "root": b64encode(self.root_at(node, self.serials[node])).decode(),
        }, "")  # fmt: skip

    def status(self, node: str) -> Asked:
        """As `NodeAnswers.status`."""
        return self.ask("GET", node + "/+status")

    def starts(self, url: str) -> list[Start]:
        """As `NodeAnswers.starts`."""
        if url.partition("/+")[0] == SILENT:
            raise LogError("not admitted")
        return self.begun

    def root_at(self, node: str, size: int) -> bytes:
        """As `NodeAnswers.root_at`."""
        changes = self.logs.get(node) or users(self.serials[node])
        return Frontier().extended(leaf_hash(one.raw) for one in entries(changes[:size])).root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A stopped replica's, at serial 10, which has followed OLD and knows NEAR."""
    folder_of(tmp_path, 10)
    (tmp_path / "uuid").write_text("this node")
    (tmp_path / "secret").write_text("the cluster's secret")
    (tmp_path / peers.URLS_FILE).write_text(f"{OLD}\n")
    peers.keep(tmp_path, [OLD, NEAR])
    return tmp_path


def promote(
    folder: Path, nodes: Nodes, patch: pytest.MonkeyPatch, *arguments: str, says: str = ""
) -> Result:
    """Run the command; `says` is what the operator types."""
    patch.setattr(command, "_asking", lambda *_: nodes)
    return CliRunner().invoke(
        command.promote, ["--state-dir", str(folder), *arguments], input=says
    )  # fmt: skip


def epoch(folder: Path) -> int:
    """The last epoch of a folder's log."""
    with opened(folder) as engine:
        return standing(engine).epoch


def test_nobody_is_further(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All nodes that are known are asked, and are told later who owns the log."""
    nodes = Nodes({OLD: 10, NEAR: 7, FAR: 10})
    ran = promote(folder, nodes, monkeypatch, "--peer", FAR, "--yes")
    assert ran.exit_code == 0, ran.output
    assert set(nodes.asked) == {OLD, NEAR, FAR}
    assert nodes.fenced == [OLD]
    for line in (f"{OLD}: primary, serial 10; 0", f"{NEAR}: replica, serial 7; 0"):
        assert f"{line} entries would be lost" in ran.output
    assert (folder / FENCE_FILE).read_text().split() == [OLD, FAR, NEAR]
    assert epoch(folder) == 2


@pytest.mark.parametrize("arguments", [[], ["--may-lose", "2"]])
def test_another_is_further(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """With the primary away, a replica that has more is named; --yes alone does not mean that."""
    nodes = Nodes({NEAR: 10, FAR: 13})
    ran = promote(folder, nodes, monkeypatch, "--peer", FAR, "--yes", *arguments)
    assert ran.exit_code == 1
    assert f"{OLD} does not answer" in ran.output
    assert f"{FAR} has 3 entries that this node lacks" in ran.output
    assert epoch(folder) == 1
    assert not (folder / FENCE_FILE).exists()


def test_the_operator_decides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says no changes nothing; who says yes, or how much may be lost, promotes."""
    nodes = Nodes({NEAR: 12})
    ran = promote(folder, nodes, monkeypatch, says="n\n")
    assert f"{NEAR} is further by 2 entries" in ran.output
    assert (ran.exit_code, epoch(folder)) == (1, 1)
    assert promote(folder, nodes, monkeypatch, says="y\n").exit_code == 0
    assert epoch(folder) == 2


def test_may_lose(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--yes goes on when no more than was said is lost."""
    ran = promote(folder, Nodes({NEAR: 12}), monkeypatch, "--yes", "--may-lose", "2")
    assert (ran.exit_code, epoch(folder)) == (0, 2)


def test_written_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the primary wrote between the comparison and its fencing is said, and not agreed to by
    --yes: the primary is fenced then, and can still be followed."""
    ran = promote(folder, Nodes({OLD: 10}, meanwhile=3), monkeypatch, "--yes")
    assert "0 entries would be lost" in ran.output
    assert f"written meanwhile: 3 entries of {OLD} would be lost now" in ran.output
    assert "start this node as a replica again" in ran.output
    assert (ran.exit_code, epoch(folder)) == (1, 1)
    refused = promote(folder, Nodes({OLD: 10}, meanwhile=3), monkeypatch, says="y\nn\n")
    assert (refused.exit_code, epoch(folder)) == (1, 1)
    agreed = promote(folder, Nodes({OLD: 10}, meanwhile=3), monkeypatch, says="y\ny\n")
    assert (agreed.exit_code, epoch(folder)) == (0, 2)


def test_a_chain(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The primary is fenced and compared once more also when the replica has followed another
    replica, and knows the primary from the list of nodes alone."""
    (folder / peers.URLS_FILE).write_text(f"{NEAR}\n")
    nodes = Nodes({NEAR: 10, OLD: 10}, meanwhile=3)
    ran = promote(folder, nodes, monkeypatch, "--yes")
    assert nodes.fenced == [OLD]
    assert f"written meanwhile: 3 entries of {OLD} would be lost now" in ran.output
    assert (ran.exit_code, epoch(folder)) == (1, 1)


def test_nothing_more_than_agreed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was agreed to already is not asked about twice."""
    ran = promote(folder, Nodes({OLD: 14}), monkeypatch, says="y\n")
    assert f"4 entries of {OLD} would be lost" in ran.output
    assert (ran.exit_code, epoch(folder)) == (0, 2)


@pytest.mark.parametrize("url", [OLD, NEAR])
def test_a_later_epoch(folder: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """When anybody has heard of a promotion that this node has not, it is refused."""
    ran = promote(folder, Nodes({url: 12}, epoch=2), monkeypatch, says="y\n")
    assert f"{url} is in epoch 2 already" in ran.output
    assert (ran.exit_code, epoch(folder)) == (1, 1)


def test_another_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of another cluster has nothing that could be lost."""
    ran = promote(folder, Nodes({NEAR: 99}, epoch=7, log="another"), monkeypatch, "--yes")
    assert f"{NEAR}: replica of another log" in ran.output
    assert ran.exit_code == 0


@pytest.mark.parametrize(("common", "serial"), [(6, 10), (6, 8), (9, 47), (1, 10)])
def test_another_history(
    folder: Path, monkeypatch: pytest.MonkeyPatch, common: int, serial: int
) -> None:
    """What a restored backup was given, and we were not, counts where the two logs parted."""
    theirs = [*users(common), *(user_set(f"its{number}") for number in range(serial - common))]
    ran = promote(folder, Nodes({NEAR: serial}, logs={NEAR: theirs}), monkeypatch, "--yes")
    assert f"{NEAR} has {serial - common} entries that this node lacks" in ran.output
    assert (ran.exit_code, epoch(folder)) == (1, 1)


@pytest.mark.parametrize("serial", [10, 47])
def test_two_owners(folder: Path, monkeypatch: pytest.MonkeyPatch, serial: int) -> None:
    """After a split all that the other owner has written since its start would be lost."""
    promote(folder, Nodes({}), monkeypatch, "--yes")
    theirs = [*users(7), *(user_set(f"its{number}") for number in range(serial - 7))]
    nodes = Nodes({OLD: serial}, epoch=2, logs={OLD: theirs}, begun=[Start(2, 8, "", "", "", b"")])
    ran = promote(folder, nodes, monkeypatch, "--yes")
    assert f"{OLD}: primary, serial {serial}; {serial - 7} entries would be lost" in ran.output
    assert (ran.exit_code, epoch(folder)) == (1, 2)
    agreed = promote(folder, nodes, monkeypatch, "--yes", "--may-lose", f"{serial - 7}")
    assert (agreed.exit_code, epoch(folder)) == (0, 3)


def test_a_history_that_is_not_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a node that does not say which epochs there were only the serials are compared."""
    ran = promote(folder, Nodes({SILENT: 12}), monkeypatch, "--peer", SILENT, "--yes")
    assert f"{SILENT}: replica, serial 12; 2 entries would be lost if its log is ours" in ran.output
    assert (ran.exit_code, epoch(folder)) == (1, 1)


def test_what_is_no_url(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option with it is refused before anything is asked; in the folder's own lists it is said,
    and nobody is told later under it."""
    for option in ("--peer", "--former"):
        for wrong in ("far.example:3141", "http://", "http://far.example:port", "file:///etc"):
            nodes = Nodes({OLD: 10})
            ran = promote(folder, nodes, monkeypatch, option, wrong, "--yes")
            assert (ran.exit_code, nodes.asked) == (2, []), ran.output
            assert f"{option} must be a URL" in ran.output
    peers.keep(folder, ["http://[near", OLD, NEAR])
    ran = promote(folder, Nodes({OLD: 10, NEAR: 10}), monkeypatch, "--yes")
    assert "'http://[near' in the state folder is no URL: that node is not asked" in ran.output
    assert (ran.exit_code, epoch(folder)) == (0, 2)
    assert (folder / FENCE_FILE).read_text().split() == [OLD, NEAR]


def test_only_a_primary_is_fenced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of who was followed and is a replica nothing else is said; of who does not answer, that it
    is fenced later if it is a primary."""
    (folder / peers.URLS_FILE).write_text(f"{NEAR}\n{FAR}\n")
    ran = promote(folder, Nodes({NEAR: 10, OLD: 10}), monkeypatch, "--yes")
    said = ran.output.splitlines()
    assert f"{NEAR}: no primary, so it is not fenced" in said
    assert f"{FAR}: not fenced (no route to host); later, if it is a primary" in said
    assert f"{OLD}: fenced" in said
    assert ran.exit_code == 0


def test_an_epoch_that_has_an_owner(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old primary that was replaced is not promoted to the epoch of its successor; one that
    was only about to be replaced is."""
    fence: dict[str, Any] = {"epoch": 2, "url": OLD, "key": KEY}
    (folder / FENCED_FILE).write_text(json.dumps(fence))
    ran = promote(folder, Nodes({}), monkeypatch, "--yes")
    assert f"epoch 2 has an owner already, {OLD}" in ran.output
    assert (ran.exit_code, epoch(folder)) == (1, 1)
    (folder / FENCED_FILE).write_text(json.dumps({**fence, "key": None}))
    assert promote(folder, Nodes({}), monkeypatch, "--yes").exit_code == 0
    assert not (folder / FENCED_FILE).exists()


def test_a_folder_without_its_uuid(tmp_path: Path) -> None:
    """Its node cannot be promoted, and says what is missing."""
    with pytest.raises(NotPossible, match="uuid is missing"):
        uuid_of(tmp_path)
