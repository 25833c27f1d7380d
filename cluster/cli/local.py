"""`pymirror cluster`: a primary and replicas on this machine, for trying pymirror out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import click
from attrs import define, field
from rich.console import Console

from cluster.cli.index import RequestFailed, send

_READY_SECONDS = 60.0
_STOP_SECONDS = 35.0
_LOOK_SECONDS = 0.1


@define
class LocalNode:
    """One node as a child process; its output goes to a log file in its state folder."""

    name: str
    port: int
    arguments: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it in a process group of its own, so that Ctrl-C reaches only us."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603 - our own program
                [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=",
                 *self.arguments],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def wait_ready(self) -> None:
        """Wait until it answers that it is ready; raises ClickException with its log's end."""
        end = time.monotonic() + _READY_SECONDS
        while time.monotonic() < end:
            if self.process is None or self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/+ready", timeout=5):  # noqa: S310
                    return
            except (OSError, urllib.error.URLError):
                time.sleep(_LOOK_SECONDS)
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])
        raise click.ClickException(f"the {self.name} did not start; the end of {self.log}:\n{tail}")

    def stop(self) -> None:
        """Let it end in order; kill it when that takes too long."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@click.command()
@click.option(
    "--dir",
    "folder",
    default=".cluster",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where state is kept between runs.",
)
@click.option("--port", default=3141, show_default=True, help="The primary's; replicas follow on.")
@click.option("--replicas", default=2, show_default=True, type=click.IntRange(0, 8))
@click.option("--root-pypi-url", help="Upstream of root/pypi [default: the public index].")
def cluster(folder: Path, port: int, replicas: int, root_pypi_url: str | None) -> None:
    """Run a primary and two replicas on this machine, in the foreground, until Ctrl-C."""
    nodes = plan(folder.absolute(), port, replicas, root_pypi_url)
    console = Console(soft_wrap=True, highlight=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with console.status("starting the primary"):
            nodes[0].start()
            nodes[0].wait_ready()
            _make_dev_index(nodes[0])
        with console.status("starting the replicas"):
            for node in nodes[1:]:
                node.start()
            for node in nodes[1:]:
                node.wait_ready()
        _explain(console, nodes, folder)
        _watch(console, nodes)
    except KeyboardInterrupt:
        console.print("\nstopping")
    finally:
        for node in reversed(nodes):
            node.stop()


def plan(folder: Path, port: int, replicas: int, root_pypi_url: str | None) -> list[LocalNode]:
    """The nodes of a local cluster: the primary first."""

    def node(name: str, number: int, command: str, *more: str) -> LocalNode:
        state, secret = folder / name, folder / "primary" / "secret"
        arguments = [
            command, "--state-dir", str(state), "--secret-file", str(secret),
            "--listen", f"tcp:{port + number}:interface=127.0.0.1",
            "--outside-url", f"http://127.0.0.1:{port + number}", *more,
        ]  # fmt: skip
        return LocalNode(name, port + number, arguments, state / "node.log")

    upstream = ["--root-pypi-url", root_pypi_url] if root_pypi_url else []
    primary_url = f"http://127.0.0.1:{port}"
    return [
        node("primary", 0, "pymirror-primary", *upstream),
        *(
            node(f"replica{n}", n, "pymirror-replica", "--primary-url", primary_url)
            for n in range(1, replicas + 1)
        ),
    ]


def _make_dev_index(primary: LocalNode) -> None:
    try:
        send("PUT", f"{primary.url}/root/dev", {"type": "stage", "bases": "root/pypi"}, "root", "")
    except RequestFailed as error:
        if error.status != 409:  # there since an earlier run
            raise click.ClickException(f"root/dev could not be made: {error}") from None


def _explain(console: Console, nodes: Sequence[LocalNode], folder: Path) -> None:
    nearest = nodes[-1] if len(nodes) == 1 else nodes[1]
    index = f"{nearest.url}/root/pypi/+simple/"
    console.print(f"The cluster runs; its state is in {folder}. Ctrl-C stops it.\n")
    console.print(f"  pip install -i {index} requests")
    console.print(f"  uv pip install --default-index {index} requests")
    console.print(f"  twine upload -u root -p '' --repository-url {nearest.url}/root/dev/ dist/*\n")
    for node in nodes:
        console.print(f"  {node.name:<10} curl {node.url}/+status")


def _watch(console: Console, nodes: Sequence[LocalNode]) -> None:
    """Say when a node ends; the others go on without it, which is worth watching.

    Raises ClickException when none is left.
    """
    running = {node.process.pid: node for node in nodes if node.process is not None}
    while running:
        pid, status = os.waitpid(-1, 0)
        node = running.pop(pid, None)
        if node is None:
            continue
        code = os.waitstatus_to_exitcode(status)
        if node.process is not None:
            node.process.returncode = code
        console.print(f"the {node.name} ended with status {code} (see {node.log}); others go on")
    raise click.ClickException("no node is left")
