"""pip, uv and twine as a user runs them, cut off from this machine's configuration."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.builders import Built

_FOREIGN = ("PIP_", "UV_", "TWINE_", "PYTHONPATH")
_SECONDS = 120


def pip_install(index_url: str, *requirements: str, target: Path) -> None:
    """``pip install`` from one index and nothing else into a folder."""
    run(
        sys.executable, "-m", "pip", "install", "--isolated", "--no-cache-dir",
        "--disable-pip-version-check", "--no-input", "--only-binary", ":all:", "--retries", "0",
        "--target", str(target), "--index-url", index_url, *requirements,
    )  # fmt: skip


def uv_install(index_url: str, *requirements: str, target: Path) -> None:
    """``uv pip install`` from one index and nothing else into a folder."""
    run(
        _beside("uv"), "pip", "install", "--no-cache", "--no-config", "--only-binary", ":all:",
        "--python", sys.executable, "--target", str(target), "--index-url", index_url,
        *requirements,
    )  # fmt: skip


def install_files(built: Sequence[Built], target: Path) -> None:
    """``pip install`` of the files themselves, without an index."""
    target.mkdir(parents=True, exist_ok=True)
    folder = target.parent / f"{target.name}-files"
    run(
        sys.executable, "-m", "pip", "install", "--isolated", "--no-cache-dir", "--no-index",
        "--no-deps", "--target", str(target), *write_files(built, folder),
    )  # fmt: skip


def twine_upload(url: str, *built: Built, folder: Path, user: str, password: str) -> None:
    """``twine upload`` to a repository URL; raises AssertionError when twine fails."""
    run(
        _beside("twine"), "upload", "--non-interactive", "--disable-progress-bar",
        "--config-file", os.devnull, "--repository-url", url, "--username", user,
        "--password", password, *write_files(built, folder),
    )  # fmt: skip


def uv_publish(url: str, *built: Built, folder: Path, user: str, password: str) -> None:
    """``uv publish`` to a repository URL; raises AssertionError when uv fails."""
    run(
        _beside("uv"), "publish", "--no-config", "--no-cache", "--trusted-publishing", "never",
        "--publish-url", url, "--username", user, "--password", password,
        *write_files(built, folder),
    )  # fmt: skip


def write_files(built: Sequence[Built], folder: Path) -> list[str]:
    """Put distribution files into a folder; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in built:
        (folder / one.filename).write_bytes(one.data)
    return [str(folder / one.filename) for one in built]


def run(*command: str) -> str:
    """Run a client to its end and return its output; AssertionError with it on failure."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
    # pip reads the machine's configuration even when isolated, unless this names the null device.
    env["PIP_CONFIG_FILE"] = os.devnull
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=_SECONDS, check=False,
    )  # fmt: skip
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, f"{command[:4]} ended with {done.returncode}:\n{output}"
    return output


def _beside(program: str) -> str:
    return str(Path(sys.executable).with_name(program))
