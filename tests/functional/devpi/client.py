"""devpi-client as a user runs it: one process a command, with a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from tests.functional.devpi.servers import Account, Server

_BIN = Path(sys.executable).parent
_SECONDS = 120
_FOREIGN = (
    "DEVPI", "PIP_", "UV_", "TWINE_", "TOX", "PYTHONPATH", "VIRTUAL_ENV", "PYMIRROR_", "PYTEST",
    "GIT_", "XDG_", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY",
)  # fmt: skip


@frozen
class Client:
    """The commands of one user on one machine: `folder` is its home and its client folder."""

    server: Server
    folder: Path

    @property
    def home(self) -> Path:
        """The folder in which configuration files are looked for and commands are run."""
        return self.folder / "home"

    def __call__(
        self,
        *arguments: object,
        stdin: str = "",
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> str:
        """``devpi`` with these arguments; its output. AssertionError when it fails."""
        code, output = self.run(*arguments, stdin=stdin, cwd=cwd, environ=environ)
        assert code == 0, f"devpi {arguments} ended with {code}:\n{output}"
        return output

    def fails(self, *arguments: object, stdin: str = "", cwd: Path | None = None) -> str:
        """``devpi`` with these arguments, which must fail; its output."""
        code, output = self.run(*arguments, stdin=stdin, cwd=cwd)
        assert code != 0, f"devpi {arguments} did not fail:\n{output}"
        assert "Traceback" not in output, output
        return output

    def run(
        self,
        *arguments: object,
        stdin: str = "",
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        """The exit code and the output of ``devpi`` with these arguments.

        Questions, also those for passwords, are answered by `stdin`: there is no terminal.
        """
        command = [str(_BIN / "devpi"), "--clientdir", str(self.folder / "client")]
        command += [str(argument) for argument in arguments]
        done = subprocess.run(
            command, cwd=cwd or self.home, env={**self.environ(), **(environ or {})},
            input=stdin.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=_SECONDS, check=False, start_new_session=True,
        )  # fmt: skip
        return done.returncode, done.stdout.decode(errors="replace")

    def use(self, index: str = "") -> str:
        """``devpi use`` of an index of the server, or of the server itself."""
        return self("use", f"{self.server.url}/{index}")

    def login(self, account: Account) -> str:
        """``devpi login`` with the account's password."""
        return self("login", account.name, "--password", account.password)

    def environ(self) -> dict[str, str]:
        """The environment of the client's commands: this machine's, without its settings."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
        path = os.pathsep.join([str(self.folder / "bin"), str(_BIN), kept.get("PATH", "")])
        # pip would read the machine's configuration, unless this names the null device.
        return {**kept, "PATH": path, "HOME": str(self.home), "PIP_CONFIG_FILE": os.devnull}


def new_client(server: Server, folder: Path) -> Client:
    """A client that has never been used."""
    client = Client(server, folder)
    client.home.mkdir(parents=True)
    (folder / "bin").mkdir()
    return client
