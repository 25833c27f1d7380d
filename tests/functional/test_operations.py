"""docs/operations.md, typed: every command of the page, in its order, on real nodes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import define, field

from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots, upload, wait_visible
from tests.processes import CHECKOUT, Node, eventually, free_port

pytestmark = [pytest.mark.functional, pytest.mark.slow, pytest.mark.timeout(600)]

DOCUMENT = CHECKOUT / "docs" / "operations.md"
PROGRAMS = Path(sys.executable).parent
MACHINES = ("a", "b", "c", "d")
_STEP = re.compile(r"^    ([a-d])\$ (.+)$|^<!-- test: (.+) -->$", re.MULTILINE)
_LOOKS = ("pymirror status", "pymirror verify")
"""Commands that are repeated until they say that all is well, as the document has it."""
_FOLDERS = ("/var/lib/pymirror", "/etc/pymirror", "/srv")


@define
class Operator:
    """Types commands at machines, which are folders and ports of this one."""

    directory: Path
    ports: dict[str, int] = field(factory=lambda: {name: free_port() for name in MACHINES})
    nodes: dict[str, Node] = field(factory=dict)
    typed: list[str] = field(factory=list)

    def type(self, machine: str, command: str) -> None:
        """Run a command; nodes are started and stopped, all else is run to its end."""
        self.typed.append(command)
        words = shlex.split(self._own(machine, command))
        if words[0] == "twistd":
            self._start(machine, words)
        elif words[:2] == ["systemctl", "stop"]:
            self.nodes[machine].terminate()
        elif words[:2] == ["systemctl", "start"]:
            self.nodes[machine].start()
        elif words[0] == "scp":
            other, _, path = words[2].partition(".example:")
            shutil.copy(words[1], self.place(other, path))
        elif not words[0].endswith("/pip"):  # tests/test_packaging.py installs
            self._run(machine, command)

    def place(self, machine: str, path: str) -> Path:
        """Where a machine's path is."""
        return self.directory / machine / path.lstrip("/")

    def folder(self, machine: str) -> Path:
        """The state folder of a machine's node."""
        return self.place(machine, "/var/lib/pymirror")

    def _own(self, machine: str, text: str) -> str:
        """A command with this machine's folders and ports in place of the document's."""
        for name, port in self.ports.items():
            text = text.replace(f"http://{name}.example:3141", f"http://127.0.0.1:{port}")
        for folder in _FOLDERS:
            text = re.sub(rf"(?<![\w:]){folder}", str(self.place(machine, folder)), text)
        text = text.replace("tcp:3141", f"tcp:{self.ports[machine]}:interface=127.0.0.1")
        return re.sub("UUID-OF-([A-D])", lambda found: self._uuid(found[1].lower()), text)

    def _uuid(self, machine: str) -> str:
        return (self.folder(machine) / "uuid").read_text().strip()

    def _start(self, machine: str, words: list[str]) -> None:
        if machine in self.nodes:
            assert not self.nodes[machine].running
        # Nobody wants a mirror of the real upstream in a test.
        more = ["--no-root-pypi"] if "--root-passwd-file" in words else []
        command = [str(PROGRAMS / "twistd"), *words[1:], *more]
        log = self.directory / f"{machine}.log"
        node = Node(machine, command, log, self.ports[machine], self.folder(machine))
        self.nodes[machine] = node.start()

    def _run(self, machine: str, command: str) -> None:
        said: list[str] = []

        def done() -> bool:
            ran = self._shell(self._own(machine, command))
            said[:] = [ran.stdout[-4000:] + ran.stderr[-4000:]]
            assert command.startswith(_LOOKS) or ran.returncode == 0, (command, *said)
            return ran.returncode == 0

        try:
            eventually(done, 30, command)
        except AssertionError as error:
            error.add_note("".join(said))
            raise

    def _shell(self, command: str) -> subprocess.CompletedProcess[str]:
        path = f"{PROGRAMS}:{os.environ['PATH']}"
        return subprocess.run(
            ["/bin/sh", "-c", command], input="y\n", capture_output=True, text=True, timeout=120,
            check=False, env={**os.environ, "PATH": path, "PYMIRROR_PASSWORD": ROOT_PASSWORD},
        )  # fmt: skip


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    """Four empty machines; what still runs is ended, and no node may have logged an error."""
    operator = Operator(tmp_path)
    for machine in MACHINES:
        for folder in ("/etc/pymirror", "/srv", "/var/lib"):
            operator.place(machine, folder).mkdir(parents=True)
    operator.place("a", "/etc/pymirror/root-password").write_text(f"{ROOT_PASSWORD}\n")
    try:
        yield operator
    finally:
        for node in operator.nodes.values():
            node.kill()
    for node in operator.nodes.values():
        assert "Traceback" not in node.log_text(), node.log_text()[-5000:]


LOST, BEHIND, ACKNOWLEDGED = (wheel(name, "1.0") for name in ("lost", "behind", "acknowledged"))


def dies_with_an_upload(operator: Operator) -> None:
    """The primary b records what nobody follows any more."""
    others = [operator.nodes["a"], operator.nodes["d"]]
    for node in others:
        node.terminate()
    assert upload(operator.nodes["b"], "root/dev", LOST).status == 200
    operator.nodes["b"].kill()
    for node in others:
        node.start()


def lost_with_an_upload(operator: Operator) -> None:
    """What b had is back by resubmission; then a is lost with all that it has."""
    primary, replica = operator.nodes["a"], operator.nodes["d"]
    wait_visible(replica, "root/dev", LOST, 10)
    assert upload(primary, "root/dev", BEHIND).status == 200
    serial = primary.status()["serial"]

    def has_files() -> bool:
        in_sync = replica.status()["in_sync"]
        return bool(in_sync["files"] and in_sync["files_position"] >= serial)

    eventually(has_files, 20, "d has the files")
    primary.kill()
    shutil.rmtree(operator.folder("a"))


def acknowledged(operator: Operator) -> None:
    """What was resubmitted from d is there, and a write is answered when b and d have it."""
    primary, *replicas = (operator.nodes[name] for name in "abd")
    wait_visible(primary, "root/dev", BEHIND, 5)
    assert upload(primary, "root/dev", ACKNOWLEDGED).status == 200
    serial = primary.status()["serial"]
    assert [node.status()["serial"] >= serial for node in replicas] == [True, True]
    for node in replicas:
        digest = ACKNOWLEDGED.sha256
        assert (node.state_dir / "files" / "sha256" / digest[:2] / digest).exists()


def shut_out(operator: Operator) -> None:
    """The revoked node says so."""
    node = operator.nodes["d"]
    eventually(lambda: node.status()["follower"]["state"] == "not-admitted", 10, "d is shut out")


EVENTS: dict[str, Callable[[Operator], None]] = {
    "b gets an upload that no replica has, and dies": dies_with_an_upload,
    "a gets an upload that reaches d, and its machine is lost": lost_with_an_upload,
    "an upload to root/dev is acknowledged by both replicas": acknowledged,
    "d is shut out": shut_out,
}


def test_document(operator: Operator) -> None:
    """Every command of docs/operations.md, typed in its order, works, and no upload that was
    acknowledged is missing at its end."""
    text = DOCUMENT.read_text()
    steps = _STEP.findall(text)
    for number, (machine, command, event) in enumerate(steps):
        if event:
            EVENTS[event](operator)
        else:
            operator.type(machine, command)
        if number == 0:
            operator.nodes["a"].put_index("root/dev", ROOT_PASSWORD, type="stage")
    assert len(operator.typed) == len(re.findall(r"^    \S", text, re.MULTILINE)) > 60
    check_same_roots([operator.nodes["a"], operator.nodes["b"]])
    for built in (LOST, BEHIND, ACKNOWLEDGED):
        wait_visible(operator.nodes["b"], "root/dev", built, 5)
