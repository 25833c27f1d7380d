"""devpi-server as a subject: from a virtual environment of its own, with its defaults."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from attrs import Factory, define, field

from bench.client import (
    Address,
    BenchError,
    Connection,
    basic,
    free_port,
    get,
    is_answering,
    put_json,
)
from bench.processes import ProcessGroup
from bench.subjects import HOSTED, MIRROR, MIRROR_EXPIRY_SECONDS, Target

# Its start is mostly argon2 over the secret: 9 s on a quiet machine.
_START_SECONDS = 120.0
_REQUIREMENT = "devpi-server>=6.14,<7"


def binaries(venv: Path) -> Path:
    """The folder of devpi's commands; a missing environment is made. Raises BenchError.

    It is apart from pymirror's own, so that neither decides on the other's dependencies.
    """
    folder = venv.resolve() / "bin"
    if not (folder / "devpi-server").exists():
        _run([sys.executable, "-m", "venv", str(venv)])
        _run([str(folder / "python"), "-m", "pip", "install", "--quiet", _REQUIREMENT])
    return folder


@define
class Devpi:
    """Starts devpi primaries and replicas; `binaries` is the folder of its commands."""

    binaries: Path
    directory: Path
    processes: ProcessGroup
    projects: tuple[str, ...]
    upstream_url: str
    name: str = "devpi"
    is_slow: bool = True
    _tokens: dict[Target, Mapping[str, str]] = field(init=False, default=Factory(dict))

    @property
    def _secret(self) -> Path:
        return self.directory / "devpi-secret"

    def start_primary(self) -> Target:
        """See `System`."""
        _run([str(self.binaries / "devpi-gen-secret"), "--secretfile", str(self._secret)])
        os.chmod(self._secret, stat.S_IRUSR | stat.S_IWUSR)
        target = self._start("primary", ["--role", "primary"], ["--no-root-pypi"])
        target.process.wait_until(lambda: is_answering(target.address, "/+api"), _START_SECONDS)
        credentials = self.credentials(target)
        put_json(target.address, f"/{HOSTED}", credentials, {"type": "stage"})
        options = {
            "type": "mirror",
            "mirror_url": self.upstream_url,
            "mirror_cache_expiry": MIRROR_EXPIRY_SECONDS,
        }
        put_json(target.address, f"/{MIRROR}", credentials, options)
        return target

    def start_replica(self, primary: Target, number: int) -> Target:
        """See `System`."""
        role = ["--role", "replica", "--primary-url", primary.address.url]
        return self._start("replica", role, role, number)

    def wait_status(self, replica: Target) -> None:
        """See `System`."""
        replica.process.wait_until(
            lambda: is_answering(replica.address, "/+status"), _START_SECONDS
        )

    def serial(self, target: Target) -> int:
        """See `System`."""
        # With devpi-web in the environment, who does not ask for JSON is given HTML.
        status = get(target.address, "/+status", {"Accept": "application/json"})
        return int(status.json()["result"]["serial"])

    def wait_for(self, replica: Target, serial: int) -> None:
        """See `System`."""

    def cut_log(self, primary: Target) -> bool:
        """See `System`."""
        return False

    def credentials(self, target: Target) -> Mapping[str, str]:
        """A login token, as devpi's client uses one: it spares a password hash per request."""
        if target not in self._tokens:
            with Connection(target.address) as connection:
                answer = connection.request(
                    "POST", "/+login", body=b'{"user": "root", "password": ""}'
                )
            if "result" not in answer.json():
                raise BenchError(f"devpi refused the login: {answer.body[:200]!r}")
            self._tokens[target] = basic("root", answer.json()["result"]["password"])
        return self._tokens[target]

    def _start(
        self, role: str, options: list[str], init_options: list[str], number: int = 0
    ) -> Target:
        label = f"{self.name} {role}"
        state = self.directory / f"devpi-{role}-{number}"
        _run([str(self.binaries / "devpi-init"), "--serverdir", str(state), *init_options])
        address = Address(free_port())
        command = [str(self.binaries / "devpi-server"), "--serverdir", str(state)]
        command += ["--host", address.host, "--port", str(address.port)]
        command += ["--secretfile", str(self._secret), *options]
        process = self.processes.start(label, command, self.directory)
        return Target(label, address, process, self.projects)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)} failed: {done.stderr[-500:]}")
