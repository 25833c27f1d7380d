"""devpi-server in pymirror's place, for a look by hand: not part of the test run.

It lives in the environment that the bench makes: ``.venv-bench`` at the top of the checkout.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.functional.devpi.servers import Server
from tests.processes import CHECKOUT, ServerProcess, eventually, free_port, http

_BIN = CHECKOUT / ".venv-bench" / "bin"
_START_SECONDS = 120.0
_CHEAP = ["--argon2-memory-cost", "8", "--argon2-parallelism", "1", "--argon2-time-cost", "1"]


def start_peer(directory: Path) -> tuple[list[ServerProcess], Server, Server]:
    """A devpi-server primary and a replica of it; the processes are the caller's to end."""
    secret = directory / "devpi-secret"
    _run("devpi-gen-secret", "--secretfile", str(secret))
    secret.chmod(0o600)
    directory.chmod(0o700)
    primary, primary_url = _start(directory, secret, "primary", [], ["--no-root-pypi"])
    role = ["--primary-url", primary_url]
    replica, replica_url = _start(directory, secret, "replica", role, role)
    return [primary, replica], Server("primary", primary_url), Server("replica", replica_url)


def _start(
    directory: Path, secret: Path, role: str, options: list[str], init_options: list[str]
) -> tuple[ServerProcess, str]:
    state = directory / f"devpi-{role}"
    _run("devpi-init", "--serverdir", str(state), "--role", role, *init_options)
    port = free_port()
    command = [
        str(_BIN / "devpi-server"), "--serverdir", str(state), "--role", role, "--port", str(port),
        "--secretfile", str(secret), *_CHEAP, *options,
    ]  # fmt: skip
    process = ServerProcess(f"devpi-{role}", command, directory / f"devpi-{role}.log")
    process.launch()
    url = f"http://127.0.0.1:{port}"
    eventually(lambda: _answers(process, url), _START_SECONDS, f"{role} answers")
    return process, url


def _answers(process: ServerProcess, url: str) -> bool:
    assert process.running, process.log_text()
    try:
        return http("GET", f"{url}/+api").status == 200
    except OSError:
        return False


def _run(program: str, *arguments: str) -> None:
    done = subprocess.run([str(_BIN / program), *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
