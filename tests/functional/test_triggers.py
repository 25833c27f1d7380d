"""Upload triggers of a real primary: a real receiver that is down, fails, or sees it killed."""

from __future__ import annotations

import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from attrs import define, field, frozen

from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD, upload
from tests.processes import Cluster, Node, eventually, free_port

pytestmark = pytest.mark.functional

SECRET = "a webhook secret"


@frozen
class Told:
    """One request, as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


@define(eq=False)
class Receiver:
    """An HTTP server in a thread, which can be down; `answer` says the status of each request."""

    port: int = field(factory=free_port)
    answer: Callable[[Told], int] = lambda told: 204
    told: list[Told] = field(factory=list)
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Listen from now on."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                names = {name.lower(): value for name, value in self.headers.items()}
                told = Told(self.path, names, body)
                receiver.told.append(told)
                code = receiver.answer(told)
                try:
                    self.send_response(code)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:
                    pass  # the primary that asked is gone

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    def down(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def wait(self, count: int, seconds: float = 20) -> None:
        eventually(lambda: len(self.told) >= count, seconds, f"{count} requests")

    def files(self) -> list[str]:
        return [json.loads(told.body)["filename"] for told in self.told]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    made.up()
    yield made
    made.down()


@pytest.fixture
def primary(nodes: Cluster) -> Node:
    return nodes.primary(root_password=ROOT_PASSWORD)


def hosted(node: Node, receiver: Receiver, name: str = "root/dev", **options: str) -> None:
    options = options or {"webhook_url": f"{receiver.url}/hook"}
    node.put_index(name, ROOT_PASSWORD, type="stage", **options)


def put(node: Node, version: str, index: str = "root/dev") -> str:
    built = wheel("told", version)
    assert upload(node, index, built).status == 200
    return built.filename


def trigger(node: Node, index: str = "root/dev") -> dict[str, Any]:
    found: dict[str, Any]
    [found] = [entry for entry in node.status()["triggers"] if entry["index"] == index]
    return found


def wait_told(node: Node, index: str = "root/dev") -> dict[str, Any]:
    return eventually(
        lambda: (lambda one: one if one["pending"] == 0 else None)(trigger(node, index)),
        20,
        "nothing is pending",
    )


def test_delivered(primary: Node, receiver: Receiver) -> None:
    """Each upload is told once, signed, with a URL that gives the file."""
    hosted(primary, receiver, webhook_url=f"{receiver.url}/hook", webhook_secret=SECRET)
    names = [put(primary, "1.0"), put(primary, "1.1")]
    receiver.wait(2)
    status = wait_told(primary)
    assert receiver.files() == names
    told = receiver.told[0]
    signature = hmac.new(SECRET.encode(), told.body, "sha256").hexdigest()
    assert told.headers["x-pymirror-signature"] == f"sha256={signature}"
    assert told.headers["x-pymirror-delivery"] == f"{json.loads(told.body)['serial']}-0"
    path = json.loads(told.body)["url"].split("/", 3)[3]
    assert primary.get(f"/{path}").body == wheel("told", "1.0").data
    assert status["target"] == f"{receiver.url}/hook"
    assert status["position"] == primary.status()["serial"]
    assert SECRET not in json.dumps(primary.status()) + primary.log_text()


def test_jenkins(primary: Node, receiver: Receiver) -> None:
    """Jenkins is asked for a build of the project's job with the script for this file."""
    hosted(primary, receiver, uploadtrigger_jenkins=f"{receiver.url}/job/{{pkgname}}/build")
    put(primary, "1.0")
    receiver.wait(1)
    [told] = receiver.told
    assert told.path == "/job/told/build"
    assert b"TEST_SPEC = 'told==1.0'" in told.body
    assert f"INDEX_URL = 'http://localhost:{primary.port}/root/dev'".encode() in told.body


def test_killed_before_it_knew(primary: Node, receiver: Receiver) -> None:
    """A primary killed after the receiver had an event, but before it heard so, tells it again
    under the same id, then what came later; what was settled before is not told again."""
    hosted(primary, receiver)
    names = [put(primary, "1.0")]
    receiver.wait(1)
    wait_told(primary)
    killed = threading.Event()

    def hold(told: Told) -> int:
        killed.wait(30)
        return 204

    receiver.answer = hold
    names += [put(primary, "1.1"), put(primary, "1.2")]
    receiver.wait(2)
    primary.kill()
    killed.set()
    primary.start()
    receiver.wait(4)
    wait_told(primary)
    assert receiver.files() == [names[0], names[1], names[1], names[2]]
    ids = [told.headers["x-pymirror-delivery"] for told in receiver.told]
    assert ids[1] == ids[2]


def test_down_then_up(primary: Node, receiver: Receiver) -> None:
    """Uploads go on while the receiver is down, also over a restart; all is told when it is up."""
    hosted(primary, receiver)
    receiver.down()
    started = time.monotonic()
    names = [put(primary, f"1.{n}") for n in range(5)]
    assert time.monotonic() - started < 5
    failing = eventually(
        lambda: (lambda one: one if one["failing_since"] else None)(trigger(primary)), 10, "failing"
    )
    assert "refused" in failing["last_error"]
    primary.restart()
    names.append(put(primary, "2.0"))
    receiver.up()
    receiver.wait(6, 30)
    status = wait_told(primary)
    assert receiver.files() == names
    assert status["failing_since"] is None


def test_failing_receiver(primary: Node, receiver: Receiver) -> None:
    """Answers of 500 are tried again with the same event; an index with a good receiver is
    told at once meanwhile."""
    good = Receiver()
    good.up()
    try:
        hosted(primary, receiver)
        hosted(primary, good, "root/other")
        broken = threading.Event()
        receiver.answer = lambda told: 204 if broken.is_set() else 500
        name = put(primary, "1.0")
        receiver.wait(2)
        put(primary, "1.0", "root/other")
        good.wait(1, 5)
        assert trigger(primary)["last_error"] == f"{receiver.url}/hook answered 500"
        broken.set()
        wait_told(primary)
        assert set(receiver.files()) == {name}
        assert trigger(primary)["dropped"] == 0
    finally:
        good.down()


def test_stops_in_time(primary: Node, receiver: Receiver) -> None:
    """A receiver that does not answer does not hold up the end of the primary."""
    hosted(primary, receiver)
    release = threading.Event()

    def hold(told: Told) -> int:
        release.wait(30)
        return 204

    receiver.answer = hold
    put(primary, "1.0")
    receiver.wait(1)
    primary.terminate(10)
    release.set()
    primary.start()
    receiver.wait(2)
    wait_told(primary)
