"""The session of the owner's guide, word by word, with stand-ins for the public hosts.

The host names of the guide become the servers under test and two static servers of the kind that
PyTorch and NVIDIA run: one serves its pages below ``/whl/cu116``, without ``/simple/``, the other
at the root of the host.
"""

from __future__ import annotations

import functools
import html
import subprocess
import sys
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import pytest

from tests.builders import Built, wheel
from tests.functional.devpi.client import Client, new_client
from tests.functional.devpi.servers import Deployment, Server

pytestmark = pytest.mark.functional

TORCH = (
    wheel("torch", "1.12.1+cu116"),
    wheel("torch", "1.13.0+cu117"),
    wheel("torchvision", "0.13.1+cu116", requires=["torch==1.12.1"]),
    wheel("torchaudio", "0.12.1+cu116", requires=["torch==1.12.1"]),
)
CUPY = wheel("cupy-cuda11x", "10.6.0", requires=["fastrlock"])
PUBLIC = (wheel("somepackage", "1.0", requires=["fastrlock"]), wheel("fastrlock", "0.8"))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A host with NVIDIA-like pages at its root and PyTorch-like pages below /whl/cu116."""
    root = tmp_path_factory.mktemp("static")
    for built in TORCH:
        _publish(root / "whl" / "cu116", built, hashed=True)
    _publish(root, CUPY, hashed=False)
    handler = functools.partial(_Quiet, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as host:
        thread = Thread(target=host.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{host.server_port}"
        host.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["primary", "replica"])
def test_session(new_deployment: Deployment, static: str, tmp_path: Path, name: str) -> None:
    """All commands of the guide, in its order, on a new server do what the guide says."""
    server = new_deployment.primary if name == "primary" else new_deployment.replica
    devpi = new_client(server, tmp_path / "devpi")
    _session(devpi, server, new_deployment, static)
    if not new_deployment.is_peer:
        _restricted(devpi, server)


def _session(devpi: Client, server: Server, deployment: Deployment, static: str) -> None:
    upstream = f"{deployment.upstream.url}/json/simple/"
    deployment.upstream.add("json", *PUBLIC)
    devpi("use", f"{server.url}/")
    devpi("login", "root", "--password=")
    devpi("index", "-c", "douban", "type=mirror", "bases=root/pypi")
    devpi("use", "root/douban")
    devpi(
        "index", "root/douban", f"mirror_web_url_fmt={upstream}{{name}}/", f"mirror_url={upstream}"
    )  # fmt: skip
    douban = f"{server.url}/root/douban/+simple/"
    _pip(devpi, "-i", douban, "somepackage", "--trusted-host", "127.0.0.1")
    devpi("index", "-c", "torch-cu116", "type=mirror")
    devpi(
        "index", "root/torch-cu116", f"mirror_web_url_fmt={static}/whl/cu116/{{name}}/",
        f"mirror_url={static}/whl/cu116",
    )  # fmt: skip
    torch = f"{server.url}/root/torch-cu116/+simple/"
    _pip(
        devpi, "-i", douban, "torch==1.12.1+cu116", "torchvision==0.13.1+cu116",
        "torchaudio==0.12.1", "--extra-index-url", torch,
    )  # fmt: skip
    assert "VERSION = '0.12.1+cu116'" in (devpi.folder / "target/torchaudio.py").read_text()
    devpi("index", "-c", "ngc-nvidia", "type=mirror")
    devpi(
        "index", "root/ngc-nvidia", f"mirror_web_url_fmt={static}/{{name}}", f"mirror_url={static}"
    )  # fmt: skip
    nvidia = f"{server.url}/root/ngc-nvidia/+simple/"
    _pip(devpi, "-i", douban, "cupy-cuda11x", "--extra-index-url", nvidia)
    _with_pip_conf(devpi, douban, torch, nvidia)


def _with_pip_conf(devpi: Client, douban: str, torch: str, nvidia: str) -> None:
    conf = devpi.home / "pip.conf"
    conf.write_text(
        f"[global]\ntimeout = 60\nindex-url = {douban}\n"
        f"extra-index-url =\n    {torch}\n    {nvidia}\ntrusted-host = 127.0.0.1\n"
    )
    folder = devpi.folder / "configured"
    _pip(devpi, "somepackage", "torch==1.12.1+cu116", "cupy-cuda11x", conf=conf, folder=folder)
    for module in ("somepackage", "torch", "cupy_cuda11x", "fastrlock"):
        assert (folder / f"{module}.py").exists()


def _restricted(devpi: Client, server: Server) -> None:
    server.made("PUT", "/ann", {"password": "password"})
    devpi("index", "-c", "dev", "bases=", "acl_pkg_read=ann", "acl_upload=root")
    devpi("use", "root/dev")
    built = wheel("privatepackage", "1.0")
    (devpi.home / built.filename).write_bytes(built.data)
    devpi("upload", devpi.home / built.filename)
    host = server.url.removeprefix("http://")
    private = f"http://ann:password@{host}/root/dev/+simple/"
    _pip(devpi, "-i", private, "privatepackage", "--trusted-host", "127.0.0.1")
    with pytest.raises(AssertionError, match="ended with"):
        _pip(devpi, "-i", f"{server.url}/root/dev/+simple/", "privatepackage")


def _pip(
    devpi: Client, *arguments: str, conf: Path | None = None, folder: Path | None = None
) -> None:
    target = folder or devpi.folder / "target"
    command = [
        sys.executable, "-m", "pip", "install", "--no-cache-dir", "--no-input",
        "--disable-pip-version-check", "--upgrade", "--target", str(target), *arguments,
    ]  # fmt: skip
    environ = devpi.environ()
    if conf is not None:
        environ["PIP_CONFIG_FILE"] = str(conf)
    done = subprocess.run(
        command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"pip ended with {done.returncode}:\n{done.stdout.decode()}"


def _publish(root: Path, built: Built, *, hashed: bool) -> None:
    """Put a file beside the page of its project, and on that page."""
    folder = root / built.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / built.filename).write_bytes(built.data)
    fragment = f"#sha256={built.sha256}" if hashed else ""
    link = f'<a href="{quote(built.filename)}{fragment}">{html.escape(built.filename)}</a><br>\n'
    with (folder / "index.html").open("a") as page:
        page.write(link)
    names = sorted(path.name for path in root.iterdir() if (path / "index.html").exists())
    (root / "index.html").write_text("".join(f'<a href="{name}/">{name}</a>\n' for name in names))
