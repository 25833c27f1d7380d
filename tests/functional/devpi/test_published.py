"""devpi-client's own published tests, those that talk to a server, against pymirror.

They come from its source distribution when the tests run; none of them is kept here. They look
for a ``devpi-server`` to start: ours is a stand-in that starts a pymirror primary.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.functional.devpi.sources import install_sphinx
from tests.processes import CHECKOUT, Cluster

pytestmark = [pytest.mark.functional, pytest.mark.internet, pytest.mark.slow]

# Which tests are left out, and why. All others that use a server run, and none may fail.
LEFT_OUT = {
    "test_unauthorized_mod": "who has not logged in is answered 401 here, 403 there",
    "test_create_index_auth_deleted": "a login of a deleted user is answered 401 here",
    "test_releases": "files without a hash are at other URLs below +e",
    "test_download_release_error": "looks for other words about a file that upstream has lost",
    "test_create_and_delete_mirror_index": "an empty list of projects is an error of upstream",
    "test_missing_package": "an empty list of projects is an error of upstream",
    "test_all[": "uploads bdist_dumb files, which no index takes any more",
    "test_all_index_option[": "uploads bdist_dumb files, which no index takes any more",
    "test_remove_file[": "uploads bdist_dumb files, which no index takes any more",
    "test_deprecated_formats[": "uploads eggs and bdist_dumb files",
    "test_only_docs_with_path[": "uploads documentation that is no zip file",
    "test_only_docs_with_path_no_version[": "uploads documentation that is no zip file",
    "test_toxresult_forbidden": "looks for JSON without saying so in Accept",
    "test_wheel_pyproject_toml": "builds with a backend from the default index",
    "test_version_server": "looks for the name devpi-server among the versions",
    "test_logout[": "looks for the bare reason Unauthorized; ours says what is needed",
    "test_simple_install_missing_venvdir": "needs an activated environment",
    "test_main_example": "the server needs the default upstream, for setuptools",
    "test_specific_version": "the server needs the default upstream, for setuptools",
    "test_pkgname_with_dashes": "the server needs the default upstream, for setuptools",
}
_SECONDS = 1200
_SERVER = """\
#!{python}
import os
import sys

arguments = sys.argv[1:]
if arguments == ["--version"]:
    print("6.20.3")
elif arguments != ["-h"]:
    state = arguments[arguments.index("--serverdir") + 1] + "/state"
    port = arguments[arguments.index("--port") + 1]
    os.chdir({checkout!r})
    twistd = [{twistd!r}, "-n", "--pidfile=", "pymirror-primary", "--no-root-pypi"]
    listen = "tcp:" + port + ":interface=127.0.0.1"
    os.execv(twistd[0], twistd + ["--state-dir", state, "--listen", listen])
"""
_PLUGIN = """\
import io

import setuptools  # before anything imports distutils, which it replaces

LEFT_OUT = {left_out!r}


def pytest_collection_modifyitems(config, items):
    kept = [
        item for item in items
        if "url_of_liveserver" in item.fixturenames
        and not any(name in item.name + "[" for name in LEFT_OUT)
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def pytest_sessionstart(session):
    _give_lengths()
    _build_sdists()


def _build_sdists():
    # Their sdists have no top folder; pymirror takes what installers take.
    import io
    import tarfile

    from testing.test_functional import Mapp

    def makepkg(self, basename, content, name, version):
        metadata = f"Metadata-Version: 1.1\\nName: {{name}}\\nVersion: {{version}}\\n".encode()
        out = io.BytesIO()
        with tarfile.open(basename, mode="w:gz", fileobj=out) as archive:
            for path, data in (("PKG-INFO", metadata), ("content", content)):
                member = tarfile.TarInfo(f"{{name}}-{{version}}/{{path}}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return out.getvalue()

    Mapp.makepkg = makepkg


def _give_lengths():
    # Their upstream says neither what it sends nor how long it is; pymirror wants to know, to
    # tell a page from something else and a whole one from one that was cut.
    from testing.simpypi import SimPyPIRequestHandler as Handler

    answer = Handler.do_GET

    def do_GET(self):
        out, self.wfile = self.wfile, io.BytesIO()
        answer(self)
        head, end, body = self.wfile.getvalue().partition(b"\\r\\n\\r\\n")
        if b"content-length" not in head.lower():
            length = str(len(body)).encode()
            head += b"\\r\\nContent-Type: text/html\\r\\nContent-Length: " + length
        out.write(head + end + body)
        self.wfile = out

    Handler.do_GET = do_GET
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the published tests and with what they need to run."""
    folder = tmp_path_factory.mktemp("published")
    release = f"devpi-client=={version('devpi-client')}"
    _pip("download", "--no-deps", "--no-binary", "devpi-client", "-d", str(folder), release)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        for member in sdist.getmembers():
            _, _, member.name = member.name.partition("/")
            if member.name.startswith("testing/"):
                sdist.extract(member, folder / "suite", filter="data")
    (folder / "site").mkdir()
    # What setuptools before 70.1, which may be the one here, needs to build wheels.
    _pip("install", "--target", str(folder / "site"), "wheel<0.46")
    (folder / "site" / "live_tests.py").write_text(_PLUGIN.format(left_out=sorted(LEFT_OUT)))
    (folder / "bin").mkdir()
    (folder / "home").mkdir()
    twistd = str(Path(sys.executable).with_name("twistd"))
    server = _SERVER.format(python=sys.executable, checkout=str(CHECKOUT), twistd=twistd)
    for name, text in (("devpi-server", server), ("devpi-init", "#!/bin/sh\n")):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    install_sphinx(folder / "bin")
    return folder


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster for one run: the tests want to be alone on their server."""
    with Cluster(tmp_path) as made:
        yield made


@pytest.mark.timeout(_SECONDS)
def test_primary(published: Path, cluster: Cluster) -> None:
    """All published tests that use a server pass on a primary."""
    assert _run(published, cluster.primary().url, "testing") >= 110


@pytest.mark.timeout(_SECONDS)
def test_replica(published: Path, cluster: Cluster) -> None:
    """Those that devpi-client shares with devpi-server pass through a replica, too."""
    replica = cluster.replica(cluster.primary())
    assert _run(published, replica.url, "testing/test_functional.py") >= 44


def _run(published: Path, url: str, what: str) -> int:
    """Run the published tests against a server; how many passed. None may fail."""
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "live_tests", "-p", "no:cacheprovider",
        "-p", "no:pytest_twisted", "--timeout", "120", "--tb", "short", "-c", os.devnull,
        "--rootdir", ".", f"--live-url={url.replace('127.0.0.1', 'localhost')}", what,
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=published / "suite", env=_environ(published), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_SECONDS, check=False,
    )  # fmt: skip
    output = done.stdout.decode(errors="replace")
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (\w+)", _last(output))}
    assert done.returncode == 0, f"{_last(output)}\n{output[-30000:]}"
    assert not {"failed", "error", "errors"} & set(counts)
    return counts["passed"]


def _last(output: str) -> str:
    return output.rstrip().rpartition("\n")[2]


def _environ(published: Path) -> dict[str, str]:
    foreign = ("DEVPI", "PYTEST", "TOX", "VIRTUAL_ENV", "PYMIRROR_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    path = [str(published / "bin"), str(Path(sys.executable).parent), kept.get("PATH", "")]
    return {
        **kept,
        "HOME": str(published / "home"),
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": os.pathsep.join([str(published / "site"), str(CHECKOUT)]),
    }


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, check=False, timeout=300)
    if done.returncode:
        pytest.skip(f"the default upstream is out of reach: {done.stderr.decode()[-300:]}")
