"""devpi use and devpi --version: what a client learns from a server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.builders import wheel
from tests.functional.devpi.client import Client
from tests.functional.devpi.servers import ROOT, Account, Deployment, Server, new_index, unique
from tests.installers import run

pytestmark = pytest.mark.functional

FEATURES = (
    "supported features: push-no-docs, push-only-docs, push-register-project, "
    "server-keyvalue-parsing"
)


def test_server(bare: Client, server: Server) -> None:
    """The root URL connects to the server and to no index."""
    output = bare("use", server.url)
    assert f"using server: {server.url}/ (not logged in)" in output
    assert "no current index" in output
    assert "(not logged in)" in bare("use")


def test_index(bare: Client, server: Server, dev: str) -> None:
    """The URL of an index selects it and says what the server can do."""
    output = bare("use", f"{server.url}/{dev}")
    assert f"current devpi index: {server.url}/{dev} (not logged in)" in output
    assert FEATURES in output


def test_unknown_index(bare: Client, server: Server) -> None:
    """An index that does not exist cannot be selected."""
    assert "404 Not Found" in bare.fails("use", f"{server.url}/nobody/nothing")


@pytest.mark.parametrize("form", ["{0}", "/{0}"])
def test_index_of_the_same_server(bare: Client, server: Server, dev: str, form: str) -> None:
    """USER/NAME and /USER/NAME select an index of the current server."""
    bare.use()
    assert f"current devpi index: {server.url}/{dev} " in bare("use", form.format(dev))


def test_own_index(devpi: Client, server: Server, account: Account) -> None:
    """NAME alone is an index of who is logged in."""
    devpi("index", "-c", "prod")
    output = devpi("use", "prod")
    assert f"current devpi index: {server.url}/{account.name}/prod (logged in as" in output


def test_urls(devpi: Client, server: Server, dev: str) -> None:
    """--urls shows the endpoints that the server names."""
    lines = [line.strip() for line in devpi("use", "--urls").splitlines()]
    assert f"login: {server.url}/+login" in lines
    assert f"pypisubmit: {server.url}/{dev}/" in lines
    assert f"simpleindex: {server.url}/{dev}/+simple/" in lines


def test_urls_of_a_mirror(bare: Client, server: Server, account: Account) -> None:
    """A mirror names no endpoint for uploads."""
    mirror = new_index(server, account, "mirror", type="mirror", mirror_url="http://up.example/")
    # The client fails afterwards, with no server in mind: its own, whatever the server says.
    _, output = bare.run("use", "--urls", f"{server.url}/{mirror}")
    assert "pypisubmit: None" in output
    assert f"simpleindex: {server.url}/{mirror}/+simple/" in output


def test_list(devpi: Client, server: Server, account: Account, dev: str) -> None:
    """-l lists every index with its bases; -u those of one user."""
    top = new_index(server, account, "top", bases=[dev], volatile=False)
    for output in (devpi("use", "-l"), devpi("use", "-l", "-u", account.name)):
        lines = [" ".join(line.split()) for line in output.splitlines()]
        assert f"{dev} bases= volatile=True" in lines
        assert f"{top} bases={dev} volatile=False" in lines


def test_list_of_another_server(bare: Client, server: Server, dev: str) -> None:
    """-l with a URL looks there without moving there."""
    assert dev in bare("use", "-l", f"{server.url}/")
    assert "no server" in bare("use")


def test_delete(devpi: Client) -> None:
    """--delete forgets the server."""
    assert "REMOVED configuration" in devpi("use", "--delete")
    assert "no server" in devpi("use")


def test_deleted_index(devpi: Client, server: Server, account: Account, dev: str) -> None:
    """An index that vanished is reported when it is next looked at."""
    server.made("DELETE", f"/{dev}", None, account.auth)
    assert "404 Not Found" in devpi.run("use")[1]


def test_credentials_in_the_url(bare: Client, server: Server, account: Account, dev: str) -> None:
    """user:password@ in the URL is sent as Basic, and counts."""
    name, password = account.name, account.password.replace(" ", "%20")
    host = server.url.removeprefix("http://")
    output = bare("use", f"http://{name}:{password}@{host}/{dev}")
    assert f"Using basic authentication for '{server.url}/{dev}" in output
    assert "current devpi index" in output


def test_set_cfg(devpi: Client, server: Server, account: Account, dev: str) -> None:
    """--set-cfg writes configurations of pip and uv that install from the index."""
    name = unique("configured")
    assert server.upload(dev, wheel(name, "1.0"), account.auth).status == 200
    pip_conf, uv_toml = devpi.home / "pip.conf", devpi.home / "uv.toml"
    configured = {"PIP_CONFIG_FILE": str(pip_conf), "UV_CONFIG_FILE": str(uv_toml)}
    devpi("use", "--set-cfg", "-t", "yes", environ=configured)
    index_url = f"{server.url}/{dev}/+simple/"
    assert f"index_url = {index_url}" in pip_conf.read_text()
    assert "trusted-host = 127.0.0.1" in pip_conf.read_text()
    assert f'index-url = "{index_url}"' in uv_toml.read_text()
    _uv_install(uv_toml, name, devpi.folder / "target")


def test_always_set_cfg(devpi: Client, server: Server, account: Account, dev: str) -> None:
    """--always-set-cfg=yes makes every later `use` write the configuration."""
    configured = {"PIP_CONFIG_FILE": str(devpi.home / "pip.conf")}
    assert "always-set-cfg: yes" in devpi("use", "--always-set-cfg=yes", environ=configured)
    devpi("index", "-c", "prod")
    devpi("use", "prod", environ=configured)
    assert f"/{account.name}/prod/+simple/" in (devpi.home / "pip.conf").read_text()


def test_index_from_the_environment(devpi: Client, server: Server, dev: str) -> None:
    """DEVPI_INDEX selects an index for one command."""
    server.made("PUT", "/root/" + (name := unique("env")), {}, ROOT)
    output = devpi("index", "--no-projects", environ={"DEVPI_INDEX": f"root/{name}"})
    assert f"{server.url}/root/{name}" in output


def test_debug(devpi: Client, server: Server) -> None:
    """--debug shows the endpoints, too."""
    assert f"login: {server.url}/+login" in devpi("use", "--debug")


def test_version(devpi: Client, server: Server, deployment: Deployment) -> None:
    """--version names the server and the versions of its parts."""
    output = devpi("--version")
    assert f"current devpi server: {server.url}/" in output
    part = "devpi-server" if deployment.is_peer else "pymirror"
    assert any(line.split()[:1] == [part] for line in output.splitlines())


def _uv_install(config: Path, name: str, target: Path) -> None:
    run(
        str(Path(sys.executable).with_name("uv")), "pip", "install", "--python", sys.executable,
        "--no-cache", "--config-file", str(config), "--target",
        str(target), name,
    )  # fmt: skip
    assert (target / f"{name}.py").exists()
