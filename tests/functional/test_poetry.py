"""The real poetry installs from a restricted index, on both kinds of node."""

from __future__ import annotations

import os
import shlex
import subprocess
import venv
from pathlib import Path

import pytest

from cluster.cli.clientconfig import poetry_commands
from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD, upload
from tests.processes import Cluster, Node

pytestmark = [pytest.mark.functional, pytest.mark.slow, pytest.mark.internet]

PROJECT = """[project]
name = "app"
version = "0.1"
requires-python = ">=3.11"
dependencies = ["hidden-one"]

[tool.poetry]
package-mode = false
"""


@pytest.fixture(scope="module")
def poetry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """poetry, in an environment of its own."""
    folder = tmp_path_factory.mktemp("poetry")
    venv.create(folder, with_pip=True)
    command = [str(folder / "bin" / "pip"), "install", "--quiet", "poetry >=2,<3"]
    done = subprocess.run(command, capture_output=True, timeout=240, check=False)
    if done.returncode:
        pytest.skip(f"the default upstream is out of reach: {done.stderr.decode()[-300:]}")
    return folder / "bin" / "poetry"


def install(poetry: Path, node: Node, folder: Path, password: str) -> tuple[int, set[str]]:
    """What `pymirror nearest` says to type, then ``poetry install``: the exit code of that, and
    the modules that are there then."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PROJECT)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "POETRY_"))},
        "HOME": str(folder),
        "POETRY_HTTP_BASIC_PYMIRROR_USERNAME": "root",
        "POETRY_HTTP_BASIC_PYMIRROR_PASSWORD": password,
        "POETRY_VIRTUALENVS_IN_PROJECT": "true",
        "POETRY_CACHE_DIR": str(folder / "cache"),
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
    }
    add, _ = poetry_commands(f"{node.url}/root/secret/+simple/")
    for command in (shlex.split(add)[1:], ["install", "--no-interaction"]):
        done = subprocess.run(
            [poetry, *command], cwd=folder, env=environment, capture_output=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0 or command[0] == "install", done.stderr
    return done.returncode, {path.name for path in folder.rglob("hidden_*.py")}


def test_restricted_index(tmp_path: Path, poetry: Path) -> None:
    """With the password everything is installed, dependencies too; with another one nothing."""
    with Cluster(tmp_path) as cluster:
        primary = cluster.primary(None, root_password=ROOT_PASSWORD)
        primary.put_index("root/secret", ROOT_PASSWORD, type="stage", acl_pkg_read=["root"])
        for built in (
            wheel("hidden-one", "1.0", requires=["hidden-two"]),
            wheel("hidden-two", "2"),
        ):
            assert upload(primary, "root/secret", built).status == 200
        for node in (primary, cluster.replica(primary)):
            code, found = install(poetry, node, tmp_path / f"wrong-{node.name}", "another one")
            assert (code != 0, found) == (True, set())
            code, found = install(poetry, node, tmp_path / f"right-{node.name}", ROOT_PASSWORD)
            assert (code, found) == (0, {"hidden_one.py", "hidden_two.py"})
