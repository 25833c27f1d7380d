"""Nodes join by a token, prove themselves by their own keys, and are shut out by a revocation."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.auth.jointokens import JoinRequest, invitation, parse
from cluster.auth.nodekeys import NodeKey, read_key
from cluster.auth.nodes import NodeSecret
from cluster.protocol import (
    INVITE_PATH,
    JOIN_PATH,
    KEYS_PATH,
    NODE_HEADER,
    TAIL_PATH,
    node_token,
)
from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots, upload, wait_visible
from tests.processes import Answer, Cluster, Node, basic, eventually, http

pytestmark = [pytest.mark.functional]

ROOT = basic("root", ROOT_PASSWORD)


def invite(node: Node, hours: int = 1) -> str:
    """A join token."""
    answer = node.request(
        "POST", INVITE_PATH, headers=ROOT, body=json.dumps({"hours": hours}).encode()
    )
    assert answer.status == 201, answer
    text: str = answer.json()["result"]["token"]
    return text


def joining(nodes: Cluster, by: Node, token: str, name: str, *options: str) -> Node:
    """A replica that has nothing but a URL and a join token; not started."""
    file = nodes.directory / f"{name}.token"
    file.write_text(f"{token}\n")
    arguments = [
        "--primary-url", by.url, "--join-token-file", str(file),
        "--secret-file", str(nodes.directory / name / "secret"), *options,
    ]  # fmt: skip
    return nodes.node(name, "pymirror-replica", arguments)


def uuid(node: Node) -> str:
    """A node's own."""
    return (node.state_dir / "uuid").read_text().strip()


def revoke(by: Node, node: Node) -> Answer:
    """Shut a node out, as root."""
    return by.request("DELETE", f"{KEYS_PATH}/{uuid(node)}", headers=ROOT)


def refused(node: Node, seconds: float = 15) -> str:
    """Wait until a node that cannot start has ended; the end of its log."""
    node.launch()
    eventually(lambda: not node.running, seconds, f"{node.name} ended")
    return node.log_text()[-2000:]


def state(node: Node) -> str:
    """The state of its following."""
    value: str = node.status()["follower"]["state"]
    return value


@pytest.fixture
def primary(nodes: Cluster) -> Node:
    """A primary that admits nodes by their keys alone, with an index for uploads."""
    node = nodes.primary(None, "--require-node-keys", root_password=ROOT_PASSWORD)
    node.put_index("root/dev", ROOT_PASSWORD, type="stage")
    return node


def test_joins_without_a_secret_file(nodes: Cluster, primary: Node) -> None:
    """A replica with a token gets the secret, follows by its key, takes uploads, and starts again
    without the token."""
    replica = joining(nodes, primary, invite(primary), "joined").start()
    assert (replica.state_dir / "node-key").stat().st_mode & 0o777 == 0o600
    secret = (replica.state_dir / "secret").read_bytes()
    assert secret.strip() == nodes.secret_file.read_bytes().strip()
    assert upload(replica, "root/dev", wheel("demo", "1.0")).status == 200
    wait_visible(primary, "root/dev", wheel("demo", "1.0"), 5)
    (nodes.directory / "joined.token").unlink()
    replica.restart()
    check_same_roots((primary, replica))
    listed = primary.request("GET", KEYS_PATH, headers=ROOT).json()["result"]
    assert [one["node"] for one in listed] == [uuid(replica)]


def test_a_primary_asks_its_replicas(nodes: Cluster, primary: Node) -> None:
    """A primary that never joined has no node key; it gets an upload that its disk has lost from a
    replica all the same, by the key of the log."""
    built = wheel("demo", "1.0", size=200_000)
    assert upload(primary, "root/dev", built).status == 200
    keys = ("--require-node-keys", "--files", "full")
    replica = joining(nodes, primary, invite(primary), "joined", *keys)
    replica._command += ["--outside-url", replica.url]
    replica.start()
    # The figures hold for the serial that is said beside them: at first for none with a file.
    head = primary.status()["serial"]
    eventually(
        lambda: replica.status()["in_sync"]["files_position"] >= head, 10, "the upload is there"
    )
    assert replica.status()["in_sync"]["files"]
    assert not (primary.state_dir / "node-key").exists()
    (primary.state_dir / "files" / "sha256" / built.sha256[:2] / built.sha256).unlink()
    primary.restart()
    eventually(lambda: primary.status()["siblings"], 10, "the primary knows its replica")
    (url,) = primary.file_urls("root/dev", "demo").values()
    answer = http("GET", url)
    assert (answer.status, answer.body) == (200, built.data), primary.log_text()[-2000:]


def test_a_token_is_used_once(nodes: Cluster, primary: Node) -> None:
    """A second node with the same token is refused, and says why; nothing is left of it."""
    token = invite(primary)
    joining(nodes, primary, token, "first").start()
    second = joining(nodes, primary, token, "second")
    assert "the join token has been used" in refused(second)
    assert not (second.state_dir / "node-key").exists()
    assert not (second.state_dir / "secret").exists()


def test_a_lost_answer_is_asked_for_again(nodes: Cluster, primary: Node) -> None:
    """A node that crashed before it wrote the answer down joins by the same token."""
    replica = joining(nodes, primary, invite(primary), "crashed").start()
    replica.kill()
    (replica.state_dir / "node-key").rename(replica.state_dir / "node-key.joining")
    (replica.state_dir / "secret").unlink()
    serial = primary.status()["serial"]
    replica.start()
    assert primary.status()["serial"] == serial


def _forge(primary: Node, node: str, ends: int) -> dict[str, object]:
    private = (primary.state_dir / "log-key").read_bytes()
    token = invitation(private, "00112233aabbccdd", ends)
    asked = JoinRequest(node, _some_key().public, "", "n" * 24)
    return {
        "node": asked.node, "key": asked.key, "name": "", "nonce": asked.nonce,
        "invite": token.id, "ends": token.ends, "proof": asked.proof(token),
    }  # fmt: skip


def _some_key() -> NodeKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return NodeKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))


def test_an_expired_token(primary: Node) -> None:
    """The end that stands in a token holds, and cannot be moved."""
    node = "6a0e6d0e-2f5f-4f57-9f4d-5f0f4b7c9d11"
    late = _forge(primary, node, int(time.time()) - 1)
    answer = primary.request("POST", JOIN_PATH, body=json.dumps(late).encode())
    assert (answer.status, b"expired" in answer.body) == (403, True)
    moved = {**late, "ends": int(time.time()) + 3600}
    assert primary.request("POST", JOIN_PATH, body=json.dumps(moved).encode()).status == 401
    good = _forge(primary, node, int(time.time()) + 3600)
    assert primary.request("POST", JOIN_PATH, body=json.dumps(good).encode()).status == 200


def test_only_root_manages_nodes(primary: Node) -> None:
    """Others get 401 or 403."""
    assert primary.request("POST", INVITE_PATH, body=b"{}").status == 401
    assert primary.get(KEYS_PATH).status == 401
    ann = {"Content-Type": "application/json", **ROOT}
    assert primary.request("PUT", "/ann", body=b'{"password": "x"}', headers=ann).status == 201
    assert primary.request("GET", KEYS_PATH, headers=basic("ann", "x")).status == 403


def test_revoked_at_once(nodes: Cluster, primary: Node) -> None:
    """The poll of a revoked node ends with "not-admitted" while it waits; others go on."""
    bad = joining(nodes, primary, invite(primary), "bad").start()
    good = joining(nodes, primary, invite(primary), "good").start()
    eventually(lambda: state(bad) == state(good) == "in-sync", 10, "both wait for news")
    before = time.monotonic()
    assert revoke(primary, bad).status == 200
    eventually(lambda: state(bad) == "not-admitted", 5, "the revoked node is shut out")
    assert time.monotonic() - before < 5
    assert "was revoked" in bad.status()["follower"]["last_error"]
    upload(primary, "root/dev", wheel("demo", "2.0"))
    good.wait_serial(primary.status()["serial"])
    assert bad.status()["serial"] < good.status()["serial"]
    token = node_token(nodes.secret_file.read_bytes().strip(), uuid(bad), time.time())
    for node in (primary, good):
        answer = node.request("GET", "/+log/epochs", headers={NODE_HEADER: token})
        assert answer.status == 401, node.name


def test_a_revocation_needs_no_replica(nodes: Cluster) -> None:
    """Where a write waits for one replica, the only one can be revoked: it holds at once, the
    answer comes soon and says what is missing, and the same again is confirmed by another."""
    keys = ("--require-node-keys", "--sync-replicas", "1")
    primary = nodes.primary(None, *keys, root_password=ROOT_PASSWORD)
    bad = joining(nodes, primary, invite(primary), "bad").start()
    before = time.monotonic()
    answer = revoke(primary, bad)
    assert time.monotonic() - before < 15
    assert (answer.status, b"revoked; that holds already, but fewer" in answer.body) == (
        202,
        True,
    ), answer
    assert "x-pymirror-position" in answer.headers
    eventually(lambda: state(bad) == "not-admitted", 5, "the revoked node is shut out")
    good = joining(nodes, primary, invite(primary), "good").start()
    check_same_roots((primary, good))
    again = revoke(primary, bad)
    assert (again.status, again.json()["message"].endswith("was revoked before")) == (200, True)


def test_the_shared_secret_is_not_enough(nodes: Cluster, primary: Node) -> None:
    """With --require-node-keys a revoked node cannot come back under another uuid."""
    other = nodes.node("other", "pymirror-replica", ["--primary-url", primary.url])
    other.launch()

    def shut_out() -> bool:
        try:
            return state(other) == "not-admitted"
        except OSError:
            return False

    eventually(shut_out, 20, "it is refused")
    assert "--join-token-file" in other.status()["follower"]["last_error"]


def test_a_token_is_for_one_request(nodes: Cluster, primary: Node) -> None:
    """What was read on the way is good for no other path, method or node."""
    replica = joining(nodes, primary, invite(primary), "heard").start()
    key = read_key(replica.state_dir / "node-key")
    assert key is not None
    token = key.token(uuid(replica), "GET", "/+log/epochs", time.time())
    sent = {NODE_HEADER: token}
    assert primary.request("GET", "/+log/epochs", headers=sent).status == 200
    assert primary.request("GET", "/%2Blog/epochs", headers=sent).status == 200
    assert primary.request("GET", TAIL_PATH, headers=sent).status == 401
    assert primary.request("GET", "/+node/secret/" + "0" * 64, headers=sent).status == 401
    other = {NODE_HEADER: key.token(uuid(replica), "GET", "/+log/cosign", time.time())}
    order = b'{"position": 0, "files_position": 0}'
    assert primary.request("POST", "/+log/cosign", headers=other, body=order).status == 401
    late = key.token(uuid(replica), "GET", "/+log/epochs", time.time() - 301)
    assert primary.request("GET", "/+log/epochs", headers={NODE_HEADER: late}).status == 401


def test_the_command(nodes: Cluster, primary: Node) -> None:
    """`pymirror node` invites, lists and revokes, through a replica too."""
    command = [str(Path(sys.executable).with_name("pymirror")), "node"]
    replica = joining(nodes, primary, invite(primary), "joined").start()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments, "--url", replica.url, "--password", ROOT_PASSWORD],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    made = run("invite", "--hours", "2")
    assert parse(made.stdout).ends > time.time()
    second = joining(nodes, replica, made.stdout, "second").start()
    assert uuid(second) in run("list").stdout
    assert "revoked" in run("revoke", uuid(second)).stdout
    assert "was revoked before" in run("revoke", uuid(second)).stdout
    missing = run("revoke", "nobody")
    assert (missing.returncode, "not the uuid" in missing.stderr) == (1, True)


def test_a_revoked_node_stays_out(nodes: Cluster, primary: Node) -> None:
    """A new token does not help a uuid that was revoked; the message says what does."""
    replica = joining(nodes, primary, invite(primary), "back").start()
    revoke(primary, replica)
    replica.terminate()
    (replica.state_dir / "node-key").unlink()
    (nodes.directory / "back.token").write_text(invite(primary))
    text = refused(replica)
    assert "was revoked" in text
    assert "remove 'uuid' and 'node-key'" in text
    (replica.state_dir / "uuid").unlink()
    replica.start()
    check_same_roots((primary, replica))


def test_nothing_secret_is_in_the_log(nodes: Cluster, primary: Node) -> None:
    """Neither the cluster's secret nor the token's is in what everybody may read."""
    token = invite(primary)
    joining(nodes, primary, token, "joined").start()
    with sqlite3.connect(primary.state_dir / "log.sqlite") as database:
        entries = b"".join(raw for (raw,) in database.execute("SELECT entry FROM log"))
    assert b"node.key" in entries
    assert token.rpartition("_")[2].encode() not in entries
    assert NodeSecret(nodes.secret_file.read_bytes(), time.time).secret not in entries
