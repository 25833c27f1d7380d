"""A cluster of real processes: an upstream, a primary, replicas, on free loopback ports.

Everything is started in, and cleaned up by, a `Cluster`; leaving it fails the test when a node
logged an unhandled error.
"""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from attrs import frozen

from tests.builders import Built

T = TypeVar("T")

CHECKOUT = Path(__file__).resolve().parent.parent
START_SECONDS = 30.0
_ALARMS = ("Traceback (most recent call last)", "Unhandled error", "Unhandled Error")


@frozen
class Answer:
    """What a server answered; `headers` has lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes
    reason: str = ""

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def http(
    method: str,
    url: str,
    *,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    timeout: float = 30.0,
) -> Answer:
    """One request on a connection of its own; redirects and encodings are left alone."""
    parts = urllib.parse.urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, names, answer.read(), answer.reason)
    finally:
        connection.close()


def basic(user: str, password: str) -> dict[str, str]:
    """The header of Basic authentication."""
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def eventually(check: Callable[[], T | None], seconds: float, what: str) -> T:
    """The first result of `check` that is true, within `seconds`; else AssertionError.

    For news that cross process borders, where there is nothing to wait on but the answer.
    """
    deadline = time.monotonic() + seconds
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what} (last: {result!r})")
        time.sleep(0.02)


# Below those that the kernel gives to outgoing connections.
_PORTS = (12_000, 32_000)


def free_port() -> int:
    """A port that nobody listens on now, and that no outgoing connection is given meanwhile."""
    while True:
        port = random.randrange(*_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class ServerProcess:
    """A child process with a log file; ends by its own pid only."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self.name = name
        self.log = log
        self.packages = CHECKOUT
        """Where the packages are that it runs; another folder is another version."""
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The pid of the running process."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the process, without waiting for anything; the log is appended to."""
        assert not self.running
        env = {k: v for k, v in os.environ.items() if not k.startswith("PYMIRROR_")}
        env["PYTHONUNBUFFERED"] = "1"
        env["PYTHONPATH"] = str(self.packages)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self.packages, env=env, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._end(signal.SIGKILL)

    def terminate(self, seconds: float = 15.0) -> int:
        """SIGTERM; the exit code. Fails when the process takes longer than `seconds`."""
        return self._end(signal.SIGTERM, seconds)

    def _end(self, how: signal.Signals, seconds: float = 15.0) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(how)
        code = self._process.wait(seconds)
        self._process = None
        return code

    def rss_bytes(self) -> int:
        """Resident memory now."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def log_text(self) -> str:
        """All that the process has written so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Node(ServerProcess):
    """A primary or a replica."""

    def __init__(self, name: str, command: list[str], log: Path, port: int, state: Path) -> None:
        super().__init__(name, command, log)
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.state_dir = state

    def start(self, *, seconds: float = START_SECONDS) -> Self:
        """Start the node and wait until it is ready."""
        self.launch()
        return self.wait_ready(seconds)

    def wait_ready(self, seconds: float = START_SECONDS) -> Self:
        """Wait until ``/+ready`` is 200; on failure the message is the end of the node's log."""
        deadline = time.monotonic() + seconds
        seen: object = None
        while time.monotonic() < deadline:
            if not self.running:
                raise AssertionError(f"{self.name} ended:\n{self.log_text()[-6000:]}")
            try:
                answer = self.get("/+ready", timeout=5)
            except OSError as error:
                seen = error
            else:
                if answer.status == 200:
                    return self
                seen = answer
            time.sleep(0.02)
        raise AssertionError(f"{self.name} not ready, {seen!r}:\n{self.log_text()[-6000:]}")

    def restart(self) -> Self:
        """SIGTERM if running, then start and wait until ready."""
        self.terminate()
        return self.start()

    def get(self, path: str, *, timeout: float = 30.0, **headers: str) -> Answer:
        """GET a path; header names are given with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return http("GET", self.url + path, headers=named, timeout=timeout)

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 30.0,
    ) -> Answer:
        """Any request."""
        return http(method, self.url + path, body=body, headers=headers, timeout=timeout)

    def status(self) -> dict[str, Any]:
        """The document of ``/+status``."""
        answer = self.get("/+status", accept="application/json")
        assert answer.status == 200, answer
        document: dict[str, Any] = answer.json()
        return document

    def put_index(self, name: str, password: str = "", **config: object) -> Answer:
        """Create an index as root."""
        headers = {**basic("root", password), "Content-Type": "application/json"}
        answer = self.request("PUT", f"/{name}", body=json.dumps(config).encode(), headers=headers)
        assert answer.status == 200, answer
        return answer

    def page(self, index: str, project: str, *, accept: str = "") -> Answer:
        """A project page, JSON unless `accept` says otherwise."""
        accept = accept or "application/vnd.pypi.simple.v1+json"
        return self.get(f"/{index}/+simple/{project}/", accept=accept)

    def file_urls(self, index: str, project: str) -> dict[str, str]:
        """Absolute URL of each file on a project page, by file name."""
        page = self.page(index, project)
        assert page.status == 200, page
        base = f"{self.url}/{index}/+simple/{project}/"
        return {f["filename"]: urllib.parse.urljoin(base, f["url"]) for f in page.json()["files"]}

    def wait_serial(self, serial: int, seconds: float = 10.0) -> None:
        """Wait until this node is at least at `serial`."""
        eventually(
            lambda: self.status()["serial"] >= serial, seconds, f"{self.name} at serial {serial}"
        )


class Upstream(ServerProcess):
    """The test upstream (`tests.upstream_server`) and its folder."""

    def __init__(self, directory: Path, log: Path, big: int, giant: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.root = directory
        command = [
            sys.executable, "-m", "tests.upstream_server", "--root", str(directory),
            "--port", str(self.port), "--big", str(big), "--giant", str(giant),
        ]  # fmt: skip
        super().__init__("upstream", command, log)

    def start(self) -> Self:
        """Start and wait until it listens."""
        self.launch()
        eventually(self._answers, START_SECONDS, "upstream listens")
        return self

    def _answers(self) -> bool:
        assert self.running, self.log_text()
        try:
            return http("GET", f"{self.url}/control").status == 200
        except OSError:
            return False

    def add(self, flavour: str, *built: Built) -> None:
        """Publish files (in ``json``, ``html`` or ``nohash``)."""
        for one in built:
            folder = self.root / flavour / _normalized(one.name)
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / f"{one.filename}.part"
            part.write_bytes(one.data)
            part.rename(folder / one.filename)

    def remove(self, flavour: str, built: Built) -> None:
        """Delete a file."""
        (self.root / flavour / _normalized(built.name) / built.filename).unlink()

    def yank(self, flavour: str, built: Built, reason: str) -> None:
        """Yank a file."""
        folder = self.root / flavour / _normalized(built.name)
        (folder / f"{built.filename}.yanked").write_text(reason)

    def fault(self, path: str, **fault: object) -> None:
        """Make the answers for one path go wrong (`upstream_answers.Fault`)."""
        self._control({"faults": {path: fault}})

    def clear(self) -> None:
        """Forget all faults and release what is held."""
        self._control({"clear": True})

    def forget(self) -> None:
        """Forget the requests so far."""
        self._control({"forget": True})

    def requests(self) -> list[dict[str, Any]]:
        """All requests since the start or `forget`: method, path, conditional, range, status."""
        requests: list[dict[str, Any]] = http("GET", f"{self.url}/control").json()["requests"]
        return requests

    def counts(self) -> Counter[str]:
        """Number of requests by path."""
        return Counter(request["path"] for request in self.requests())

    def _control(self, order: dict[str, Any]) -> None:
        body = json.dumps(order).encode()
        assert http("POST", f"{self.url}/control", body=body).status == 200


class Cluster:
    """Processes that live as long as the ``with`` block, in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.secret_file = directory / "secret"
        self.allow_alarms = False
        self._processes: list[ServerProcess] = []

    def upstream(self, *, big: int = 0, giant: int = 1 << 20) -> Upstream:
        """Start a test upstream."""
        folder = self.directory / "upstream"
        folder.mkdir()
        upstream = Upstream(folder, self.directory / "upstream.log", big, giant)
        self._processes.append(upstream)
        return upstream.start()

    def primary(
        self, root_pypi_url: str | None = None, *options: str, root_password: str = ""
    ) -> Node:
        """Start a primary; without a `root_pypi_url` it has no root/pypi."""
        arguments = list(options)
        if root_pypi_url is None:
            arguments.append("--no-root-pypi")
        else:
            arguments += ["--root-pypi-url", root_pypi_url]
        if root_password:
            passwd = self.directory / "root-passwd"
            passwd.write_text(f"{root_password}\n")
            passwd.chmod(0o600)
            arguments += ["--root-passwd-file", str(passwd)]
        return self.node("primary", "pymirror-primary", arguments).start()

    def replica(self, primary: Node, name: str = "replica", *options: str) -> Node:
        """Start a replica and wait until it has caught up."""
        arguments = ["--primary-url", primary.url, *options]
        return self.node(name, "pymirror-replica", arguments).start()

    def become(self, node: Node, program: str, *arguments: str) -> Node:
        """The other role with a stopped node's folder and port, not started."""
        assert not node.running
        return self.node(node.name, program, list(arguments), node.port)

    def node(self, name: str, program: str, arguments: list[str], port: int | None = None) -> Node:
        """A node that belongs to the cluster, not started."""
        port = port or free_port()
        state = self.directory / name
        command = [
            str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", program,
            "--state-dir", str(state), "--secret-file", str(self.secret_file),
            "--listen", f"tcp:{port}:interface=127.0.0.1", *arguments,
        ]  # fmt: skip
        node = Node(name, command, self.directory / f"{name}.log", port, state)
        self._processes.append(node)
        return node

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in reversed(self._processes):
            process.kill()
        if self.allow_alarms:
            return
        for process in self._processes:
            text = process.log_text()
            at = min((text.find(a) for a in _ALARMS if a in text), default=-1)
            if at >= 0:
                message = f"{process.name} logged:\n{text[max(0, at - 500) : at + 4000]}"
                if error is None:
                    raise AssertionError(message)
                error.add_note(message)


def _normalized(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
