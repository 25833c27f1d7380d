"""`pymirror verify` between real nodes: equal ones, and each way of being different."""

from __future__ import annotations

import json
import os
import pty
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.asking import NodeAnswers
from cluster.cli.comparing import Pair, compare_pages
from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots, upload
from tests.processes import Cluster, Node, http

pytestmark = pytest.mark.functional

Trio = tuple[Cluster, Node, Node]
BUILT = [wheel(f"project-{number}", "1.0") for number in range(4)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """A primary with some uploads and a replica that is in sync; tests leave both equal."""
    with Cluster(tmp_path_factory.mktemp("verify")) as cluster:
        primary = cluster.primary(None, root_password=ROOT_PASSWORD)
        primary.put_index("root/dev", ROOT_PASSWORD, type="stage", acl_pkg_read=["root"])
        primary.put_index("root/app", ROOT_PASSWORD, type="stage", bases=["root/dev"])
        for built in BUILT:
            assert upload(primary, "root/dev", built).status == 200
        replica = cluster.replica(primary)
        check_same_roots([primary, replica])
        yield cluster, primary, replica


def command(cluster: Cluster, one: str, other: str, level: int, *options: str) -> list[str]:
    """The command that compares two URLs."""
    return [
        str(Path(sys.executable).with_name("pymirror")), "verify", one, "--against", other,
        "--level", str(level), "--secret-file", str(cluster.secret_file), *options,
    ]  # fmt: skip


def verify(
    cluster: Cluster, one: Node | str, other: Node, level: int, *options: str
) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of the command."""
    url = one if isinstance(one, str) else one.url
    done = subprocess.run(
        command(cluster, url, other.url, level, "--json", *options),
        stdout=subprocess.PIPE, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)


@contextmanager
def front(node: Node, path: str) -> Iterator[str]:
    """The URL of a proxy before a node that serves another page than the node's for one path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = http("GET", node.url + self.path, headers=dict(self.headers.items()))
            body = answer.body
            if self.path == path:
                body = body.replace(b"1.0", b"1.9")
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_equal(pair: Trio) -> None:
    """Nodes in sync are equal on all levels, also the private index's pages and files."""
    cluster, primary, replica = pair
    code, said = verify(cluster, replica, primary, 4)
    assert (code, said["equal"]) == (0, True), said
    assert said["levels"]["files"]["files"] == 2 * len(BUILT)
    assert said["levels"]["pages"]["pages"] == 2 * len(BUILT)
    assert said["levels"]["log"]["entries"] == primary.status()["serial"]


def test_different_page(pair: Trio) -> None:
    """One page that is served otherwise, as by a proxy that kept it, is found on level 3 with
    its path, in both formats; level 2 finds nothing."""
    cluster, primary, replica = pair
    path = "/root/dev/+simple/project-3/"
    with front(replica, path) as url:
        assert verify(cluster, url, primary, 2)[0] == 0
        code, said = verify(cluster, url, primary, 3)
    assert (code, said["levels"]["state"]["equal"], said["levels"]["pages"]["equal"]) == (
        1, True, False,
    )  # fmt: skip
    assert said["differences"] == [
        f"the page {path} as text/html",
        f"the page {path} as application/vnd.pypi.simple.v1+json",
    ]


def test_sample_and_all(pair: Trio) -> None:
    """As many projects are looked at as `--sample` says, and every one with `--all`; each is
    counted as it is done."""
    cluster, primary, replica = pair
    code, said = verify(cluster, replica, primary, 3, "--sample", "1")
    assert (code, said["levels"]["pages"]["pages"]) == (0, 2)
    code, said = verify(cluster, replica, primary, 3, "--sample", "1", "--all")
    assert (code, said["levels"]["pages"]["pages"]) == (0, 2 * len(BUILT))
    told: list[tuple[int, int]] = []
    asking = NodeAnswers(cluster.secret_file.read_bytes().strip(), "verify-test", time.time)
    compare_pages(
        Pair(asking, replica.url, primary.url, None), lambda done, of: told.append((done, of))
    )
    assert told == [(done, len(BUILT)) for done in range(len(BUILT))]


def test_progress(pair: Trio) -> None:
    """On a terminal the command names what it compares while it does, then what it found."""
    cluster, primary, replica = pair
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(cluster, replica.url, primary.url, 3), stdin=subprocess.DEVNULL, stdout=theirs,
        stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65_536):
            shown += piece
    except OSError:
        pass  # Linux's word for the end of a terminal
    finally:
        os.close(ours)
    assert process.wait(30) == 0
    places = [shown.find(b"comparing the " + name) for name in (b"log", b"state", b"pages")]
    assert places == sorted(places)
    assert places[0] >= 0, shown
    assert f"pages  equal ({2 * len(BUILT)} pages)".encode() in shown


def test_different_cluster(pair: Trio, tmp_path: Path) -> None:
    """Another cluster's log is another one, even if the operator gave it the same secret and
    both hold the same files."""
    cluster, primary, replica = pair
    with Cluster(tmp_path) as others:
        shutil.copy(cluster.secret_file, others.secret_file)
        other = others.primary(None, root_password=ROOT_PASSWORD)
        other.put_index("root/dev", ROOT_PASSWORD, type="stage", acl_pkg_read=["root"])
        code, said = verify(cluster, replica, other, 4)
        assert (code, list(said["levels"])) == (1, ["log"])
        (difference,) = said["differences"]
        for node in (primary, other):
            assert str(node.status()["log_identity"]) in difference
        other.terminate()
        code, said = verify(cluster, primary, other, 1)
        assert (code, said["differences"]) == (2, [])
        assert other.url in said["unable"][0]


def test_different_history(pair: Trio) -> None:
    """Of one log identity, a shorter log is equal while it is a beginning of the longer one; two
    that went on from it, each in its own way, differ, whichever is the longer."""
    cluster, primary, replica = pair
    late = [wheel("late", f"{number}.0") for number in range(3)]
    primary.terminate()
    shutil.copytree(primary.state_dir, cluster.directory / "fork")
    primary.start()
    fork = cluster.node("fork", "pymirror-primary", ["--no-root-pypi"]).start()
    assert upload(primary, "root/dev", late[0]).status == 200
    code, said = verify(cluster, fork, primary, 1)
    behind = primary.status()["serial"] - fork.status()["serial"]
    assert behind > 0
    assert (code, said["levels"]["log"]["entries behind"]) == (0, behind), said
    assert verify(cluster, primary, fork, 1) == (code, said)
    for built in late[1:]:
        assert upload(fork, "root/dev", built).status == 200
        for one, other in ((fork, primary), (primary, fork), (replica, fork)):
            code, said = verify(cluster, one, other, 2)
            assert (code, list(said["levels"])) == (1, ["log"]), said
            size = min(node.status()["serial"] for node in (one, other))
            assert said["differences"] == [f"the roots of the first {size} entries differ"]
    fork.terminate()
    check_same_roots([primary, replica])


def test_different_state(pair: Trio) -> None:
    """A row that the log does not account for is found by its project's name, on level 2."""
    cluster, primary, _ = pair
    damaged = cluster.replica(primary, "damaged")
    check_same_roots([primary, damaged])
    damaged.terminate()
    statement = "UPDATE files SET serial = serial + 1 WHERE project = 'project-2'"
    with sqlite3.connect(damaged.state_dir / "log.sqlite") as connection:
        assert connection.execute(statement).rowcount > 0
    connection.close()
    damaged.start()
    assert verify(cluster, primary, damaged, 1)[0] == 0
    code, said = verify(cluster, primary, damaged, 4)
    assert (code, said["levels"]["state"]["equal"]) == (1, False)
    assert said["differences"] == ["the state of root/dev project-2"]
    assert "pages" not in said["levels"]
    damaged.terminate()


def test_rotten_file(pair: Trio) -> None:
    """A file whose bytes changed on a node's disk is found on level 4 alone."""
    cluster, primary, replica = pair
    rotten = BUILT[1]
    path = primary.state_dir / "files" / "sha256" / rotten.sha256[:2] / rotten.sha256
    path.chmod(0o600)
    path.write_bytes(rotten.data[:-1] + b"?")
    os.utime(path, (0, 0))
    assert verify(cluster, replica, primary, 3)[0] == 0
    code, said = verify(cluster, primary, primary, 4)
    assert code == 1
    assert any(rotten.filename in line for line in said["differences"])
