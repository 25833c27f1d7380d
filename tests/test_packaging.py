"""What is built is what works: a wheel, installed on its own, has both commands and the CLI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version
from twisted.application.service import IServiceMaker
from twisted.internet import reactor
from twisted.plugin import getPlugins

ROOT = Path(__file__).resolve().parent.parent
TAPS = {"pymirror-primary", "pymirror-replica"}
SOURCES = ("cluster", "primary", "replica", "twisted")
TWISTD = "from twisted.scripts.twistd import run; run()"
# The wheel's own format needs no package beside setuptools from this version on.
SETUPTOOLS = Version("70.1")


def run(*command: object, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """A command's output; one that fails fails the test, with all it said."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def can_build_here() -> bool:
    """Whether a build needs no environment of its own, and so no network."""
    try:
        return Version(version("setuptools")) >= SETUPTOOLS
    except PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy: a build in the checkout would leave its files there."""
    folder = tmp_path_factory.mktemp("build")
    copy, out = folder / "copy", folder / "out"
    copy.mkdir()
    for name in SOURCES:
        ignore = shutil.ignore_patterns("__pycache__", "dropin.cache")
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    isolation = ["--no-build-isolation"] if can_build_here() else []
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check",
        "--no-deps", *isolation, "--wheel-dir", out, copy, cwd=folder)  # fmt: skip
    [built] = out.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel, and this environment's libraries behind it.

    Only its folder is added, so the editable install of the checkout is not active there.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps",
        "--no-index", "--disable-pip-version-check", wheel, cwd=folder)  # fmt: skip
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", code, cwd=folder).strip())
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder, and an environment that says nothing of the checkout."""
    for name in list(os.environ):
        if name.startswith(("PYTHON", "PYMIRROR_")):
            monkeypatch.delenv(name)
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_wheel_is_whole(wheel: Path) -> None:
    """Every module of ours, the typing marks and the plugin are in the wheel; tests are not."""
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        str(path.relative_to(ROOT))
        for name in SOURCES
        for path in (ROOT / name).rglob("*")
        if path.suffix in (".py", ".typed", ".html", ".css", ".sql")
    }
    assert "twisted/plugins/pymirror_dropin.py" in wanted
    assert wanted <= inside
    others = {name for name in inside - wanted if ".dist-info/" not in name}
    assert others == set()


def test_twistd_lists_both_commands(installed: Path, clean: Path) -> None:
    """`twistd --help` of an installed wheel knows a primary and a replica."""
    python = installed / "python"
    where = run(python, "-c", "import cluster; print(cluster.__file__)", cwd=clean)
    assert where.startswith(str(installed.parent))
    listed = run(python, "-c", TWISTD, "--help", cwd=clean)
    assert {tap for tap in TAPS if tap in listed} == TAPS
    for tap, option in (("pymirror-primary", "--root-pypi-url"),
                        ("pymirror-replica", "--primary-url")):  # fmt: skip
        assert option in run(python, "-c", TWISTD, tap, "--help", cwd=clean)


def test_the_admin_command_works(installed: Path, clean: Path) -> None:
    """`pymirror --help` of an installed wheel lists what it can do."""
    said = run(installed / "pymirror", "--help", cwd=clean)
    assert "rebuild" in said
    assert run(installed / "pymirror", "--version", cwd=clean).strip()


def test_plugins_of_the_checkout() -> None:
    """The editable install knows both commands, and Twisted's package is not shadowed."""
    found = {plugin.tapname for plugin in getPlugins(IServiceMaker)}
    assert found >= TAPS
    assert not (ROOT / "twisted" / "__init__.py").exists()
    assert not (ROOT / "twisted" / "plugins" / "__init__.py").exists()


def test_the_clock_of_tests_is_monotonic() -> None:
    """The reactor that tests run on does not follow the wall clock."""
    running: Any = reactor
    assert running.seconds is time.monotonic


CLOCK = """
import time
from twisted.application import app
from twisted.scripts.twistd import ServerOptions, runApp

def checked(config):
    from twisted.internet import reactor
    def tell():
        print("reactor", type(reactor).__name__, reactor.seconds is time.monotonic, flush=True)
        reactor.stop()
    reactor.callLater(0.2, tell)
    runApp(config)

app.run(checked, ServerOptions)
"""


@pytest.mark.parametrize("name", ["epoll", "asyncio"])
def test_the_clock_of_a_primary_is_monotonic(clean: Path, name: str) -> None:
    """In a real `twistd pymirror-primary` timers do not follow the wall clock, on any reactor."""
    said = run(
        sys.executable, "-c", CLOCK, "--nodaemon", "--pidfile=", f"--reactor={name}",
        "pymirror-primary", "--state-dir", clean / "state", "--no-root-pypi",
        "--listen", "tcp:0:interface=127.0.0.1", cwd=clean,
    )  # fmt: skip
    told = [line for line in said.splitlines() if "reactor " in line and line.endswith("True")]
    assert told, said
