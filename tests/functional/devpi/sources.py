"""Source trees, documentation and stand-ins for programs that devpi-client calls: all offline."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

from attrs import frozen

from tests.builders import Built, sdist, wheel

# A build backend that takes what the tree has ready: no test waits for setuptools.
_BACKEND = """\
import pathlib
import shutil

READY = pathlib.Path(__file__).parent / "ready"


def _take(pattern, folder):
    (ready,) = READY.glob(pattern)
    shutil.copy(ready, folder)
    return ready.name


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    return _take("*.whl", wheel_directory)


def build_sdist(sdist_directory, config_settings=None):
    return _take("*.tar.gz", sdist_directory)
"""
_PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
_SPHINX_BUILD = """\
#!{python}
import shutil
import sys

shutil.copytree(sys.argv[-2], sys.argv[-1])
"""


@frozen
class Tree:
    """A source tree and the two distributions that its build gives."""

    folder: Path
    wheel: Built
    sdist: Built


def source_tree(folder: Path, name: str, version: str = "1.0") -> Tree:
    """A project that ``python -m build`` builds without a network, with documentation."""
    tree = Tree(folder, wheel(name, version), sdist_with_tests(name, version, command=""))
    (folder / "ready").mkdir(parents=True)
    for built in (tree.wheel, tree.sdist):
        (folder / "ready" / built.filename).write_bytes(built.data)
    (folder / "backend.py").write_text(_BACKEND)
    (folder / "pyproject.toml").write_text(_PYPROJECT)
    (folder / "docs").mkdir()
    (folder / "docs" / "conf.py").write_text("")
    (folder / "docs" / "index.html").write_text(f"<p>The docs of {name}</p>")
    return tree


def commit(folder: Path) -> None:
    """Make a git repository of a folder."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@mail.example"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "All"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def sdist_with_tests(name: str, version: str = "1.0", *, requires: str = "", command: str) -> Built:
    """A source distribution that tox can install and test offline.

    It has a tox.ini that installs `requires` from the index in use and runs `command`.
    """
    ready = wheel(name, version)
    tox_ini = f"[tox]\nenvlist = py\n[testenv]\ndeps = {requires}\ncommands = {command}\n"
    files = {
        "pyproject.toml": _PYPROJECT.encode(),
        "backend.py": _BACKEND.encode(),
        f"ready/{ready.filename}": ready.data,
        "tox.ini": tox_ini.encode(),
    }
    return sdist(name, version, files=files)


def doc_zip(name: str) -> bytes:
    """Documentation of two pages, the same bytes at any time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("index.html"), f"<p>The docs of {name}</p>")
        archive.writestr(zipfile.ZipInfo("sub/page.html"), "<p>Another page</p>")
    return out.getvalue()


def install_sphinx(folder: Path) -> None:
    """A ``sphinx-build`` that copies: devpi-client only calls it and zips what it leaves."""
    program = folder / "sphinx-build"
    program.write_text(_SPHINX_BUILD.format(python=sys.executable))
    program.chmod(0o755)
