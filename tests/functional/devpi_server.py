"""The real devpi-server, filled by the real devpi-client, and what devpi-export makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.builders import Built, legacy_form, multipart
from tests.installers import write_files
from tests.processes import Answer, ServerProcess, basic, eventually, free_port, http

# Its start is mostly argon2 over its secret.
_START_SECONDS = 120.0
_COMMAND_SECONDS = 120


def beside(command: str) -> str:
    """A command of this Python's environment."""
    return str(Path(sys.executable).with_name(command))


def run(*command: str) -> str:
    """Run to the end; returns what was printed, fails with it when the exit status is not 0."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DEVPI", "PIP_"))}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS, env=env,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


class DevpiServer(ServerProcess):
    """A devpi-server with its state in `folder`/server and a devpi-client that talks to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "server"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [
            beside("devpi-server"), "--serverdir", str(self.state), "--host", "127.0.0.1",
            "--port", str(self.port),
        ]  # fmt: skip
        super().__init__("devpi-server", command, folder / "devpi-server.log")

    def start(self) -> Self:
        """Make the server's folder if there is none, start it, and point the client to it."""
        if not self.state.exists():
            run(beside("devpi-init"), "--serverdir", str(self.state), "--no-root-pypi")
        self.launch()
        eventually(self._answers, _START_SECONDS, "devpi-server listens")
        self.client("use", self.url)
        return self

    def _answers(self) -> bool:
        assert self.running, self.log_text()
        try:
            return http("GET", f"{self.url}/+api").status == 200
        except OSError:
            return False

    def client(self, command: str, *arguments: str) -> str:
        """One devpi-client command; what it printed."""
        folder = self.folder / "client"
        return run(beside("devpi"), command, "--clientdir", str(folder), *arguments)

    def upload(self, index: str, *built: Built) -> None:
        """``devpi upload`` of files."""
        files = write_files(built, self.folder / "uploads" / index)
        self.client("use", index)
        self.client("upload", *files)

    def post(
        self, index: str, user: str, password: str, form: tuple[str, bytes]
    ) -> Answer:  # fmt: skip
        """Send an upload form as old tools did."""
        headers = {**basic(user, password), "Content-Type": form[0]}
        answer = http("POST", f"{self.url}/{index}/", body=form[1], headers=headers)
        assert answer.status == 200, answer
        return answer

    def file_url(self, index: str, built: Built) -> str:
        """Where an index has a file."""
        head, rest = built.sha256[:3], built.sha256[3:16]
        return f"{self.url}/{index}/+f/{head}/{rest}/{built.filename}"

    def tox_result(self, index: str, built: Built, result: object, who: tuple[str, str]) -> None:
        """Upload a tox result for a file."""
        kind = "application/json"
        answer = http(
            "POST", self.file_url(index, built), body=json.dumps(result).encode(),
            headers={**basic(*who), "Content-Type": kind, "Accept": kind},
        )  # fmt: skip
        assert answer.status == 200, answer

    def export(self, directory: Path, *options: str) -> Path:
        """Stop the server and ``devpi-export`` it; returns the dump's folder."""
        self.terminate()
        command = [beside("devpi-export"), "--serverdir", str(self.state), *options]
        run(*command, str(directory))
        return directory


def odd_form(built: Built, filename: str, filetype: str) -> tuple[str, bytes]:
    """The form of a file with another name and type than `built` has: eggs, installers."""
    return legacy_form(built, filename=filename, filetype=filetype)


def submit_form(name: str, version: str, **fields: str | Sequence[str]) -> tuple[str, bytes]:
    """The form that registers a release without a file."""
    return _without_content({":action": "submit", "name": name, "version": version, **fields})


def docs_form(name: str, version: str, filename: str, data: bytes) -> tuple[str, bytes]:
    """The form with a release's documentation."""
    return multipart({":action": "doc_upload", "name": name, "version": version}, filename, data)


def _without_content(fields: dict[str, str | Sequence[str]]) -> tuple[str, bytes]:
    content_type, body = multipart(fields, "x", b"")
    boundary = content_type.partition("boundary=")[2].encode()
    head, _, _ = body.partition(
        b"--" + boundary + b'\r\nContent-Disposition: form-data; name="content"'
    )
    return content_type, head + b"--" + boundary + b"--\r\n"
