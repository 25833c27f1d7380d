"""devpi install, pip and uv: packages from the indexes, with and without credentials."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import wheel
from tests.functional.devpi.client import Client
from tests.functional.devpi.servers import (
    Account,
    Deployment,
    Server,
    new_account,
    new_index,
    unique,
)
from tests.installers import pip_install, run, uv_install
from tests.processes import eventually

pytestmark = pytest.mark.functional

Install = Callable[..., None]
INSTALLERS = pytest.mark.parametrize("install", [pip_install, uv_install])


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment to install into."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=True)
    return folder


@pytest.fixture
def name(server: Server, account: Account, dev: str) -> str:
    """A project whose one release needs another project."""
    project, needed = unique("inst"), unique("needed")
    for built in (wheel(project, "1.0", requires=[needed]), wheel(needed, "2.0")):
        assert server.upload(dev, built, account.auth).status == 200
    return project


def _installed(environment: Path, name: str) -> bool:
    return (
        next(environment.glob(f"lib/python3*/site-packages/{name}-1.0.dist-info"), None) is not None
    )


def test_install(devpi: Client, environment: Path, name: str) -> None:
    """`devpi install` into an environment, with what the project needs."""
    devpi("install", "--venv", environment, name)
    assert _installed(environment, name)
    assert name in devpi("install", "--venv", environment, "-l")


def test_install_index_option(
    devpi: Client, server: Server, account: Account, environment: Path, name: str
) -> None:
    """--index installs from another index than the current."""
    new_index(server, account, "empty")
    devpi("use", "empty")
    devpi("install", "--venv", environment, "--index", "dev", name)
    assert _installed(environment, name)


def test_install_requirements(devpi: Client, environment: Path, name: str) -> None:
    """-r installs what a file lists, and `use --venv` remembers the environment."""
    (devpi.home / "requirements.txt").write_text(f"{name}==1.0\n")
    devpi("use", "--venv", environment)
    devpi("install", "-r", "requirements.txt")
    assert _installed(environment, name)


def test_install_unknown(devpi: Client, environment: Path) -> None:
    """What the index does not have is not installed."""
    output = devpi.fails("install", "--venv", environment, unique("nothing"))
    assert "No matching distribution" in output


@INSTALLERS
def test_through_bases(
    server: Server,
    account: Account,
    deployment: Deployment,
    dev: str,
    tmp_path: Path,
    install: Install,
) -> None:
    """An index gives what it, its base and its mirror have."""
    own, public = unique("own"), unique("public")
    deployment.upstream.add("json", wheel(public, "1.0"))
    mirror = new_index(
        server, account, "mirror", type="mirror",
        mirror_url=f"{deployment.upstream.url}/json/simple/",
    )  # fmt: skip
    top = new_index(server, account, "top", bases=[dev, mirror])
    server.upload(dev, wheel(own, "1.0", requires=[public]), account.auth)
    install(server.pip_url(top), own, target=tmp_path / "target")
    assert (tmp_path / "target" / f"{public}.py").exists()


@INSTALLERS
def test_no_confusion(
    server: Server,
    account: Account,
    deployment: Deployment,
    dev: str,
    tmp_path: Path,
    install: Install,
) -> None:
    """A newer release of one's own project on a mirror is not seen, unless it is whitelisted."""
    name = unique("confused")
    deployment.upstream.add("json", wheel(name, "99.0"))
    mirror = new_index(
        server, account, "mirror", type="mirror",
        mirror_url=f"{deployment.upstream.url}/json/simple/",
    )  # fmt: skip
    server.made("PATCH", f"/{dev}", {"bases": [mirror]}, account.auth)
    server.upload(dev, wheel(name, "1.0"), account.auth)
    install(server.pip_url(dev), name, target=tmp_path / "safe")
    assert "VERSION = '1.0'" in (tmp_path / "safe" / f"{name}.py").read_text()
    server.made("PATCH", f"/{dev}", {"mirror_whitelist": [name]}, account.auth)
    install(server.pip_url(dev), name, target=tmp_path / "open")
    assert "VERSION = '99.0'" in (tmp_path / "open" / f"{name}.py").read_text()


@INSTALLERS
def test_restricted(
    server: Server,
    account: Account,
    dev: str,
    name: str,
    tmp_path: Path,
    install: Install,
    ours: None,
) -> None:
    """An index with acl_pkg_read opens to its users' passwords and tokens and to nobody else."""
    server.made("PATCH", f"/{dev}", {"acl_pkg_read": [account.name]}, account.auth)
    login = {"user": account.name, "password": account.password}
    token = server.made("POST", "/+login", login)["password"]
    for number, secret in enumerate((account.password, token)):
        target = tmp_path / str(number)
        install(server.pip_url(dev, account.name, secret), name, target=target)
        assert (target / f"{name}.py").exists()
    other = new_account(server)
    for user, secret in (("", ""), (account.name, "wrong"), (other.name, other.password)):
        with pytest.raises(AssertionError, match="ended with"):
            install(server.pip_url(dev, user, secret), name, target=tmp_path / "closed")


def test_install_restricted(
    devpi: Client, server: Server, account: Account, environment: Path, name: str, ours: None
) -> None:
    """`devpi install` gives pip the login, so that a restricted index serves it."""
    devpi("index", f"acl_pkg_read={account.name}")
    devpi("install", "--venv", environment, name)
    assert _installed(environment, name)


def test_restricted_hidden(
    devpi: Client, server: Server, account: Account, name: str, ours: None
) -> None:
    """To the others a restricted index does not exist, not even for devpi-client."""
    devpi("index", f"acl_pkg_read={account.name}")
    assert devpi("list").split() != []
    devpi.login(new_account(server))
    assert "404" in devpi.run("use", account.dev)[1]
    assert account.dev not in devpi("use", "-l", f"{server.url}/")


def test_pip_search(server: Server, dev: str, name: str, ours: None) -> None:
    """``pip search`` finds a release by its name."""
    command = [
        sys.executable, "-m", "pip", "--isolated", "search", "--index", f"{server.url}/{dev}", name
    ]  # fmt: skip
    # The search follows the uploads half a second behind; until then pip ends with 23.
    output = eventually(lambda: _found(command), 30, "the search follows")
    assert f"{name} (1.0)" in output


def _found(command: list[str]) -> str | None:
    try:
        return run(*command)
    except AssertionError:
        return None


def test_pip_download_by_hash(server: Server, dev: str, name: str, tmp_path: Path) -> None:
    """pip's hash mode accepts what the index serves, and refuses what it does not."""
    (link,) = server.links(dev, name).values()
    for digest, fine in ((link["hashes"]["sha256"], True), ("0" * 64, False)):
        requirements = tmp_path / "requirements.txt"
        requirements.write_text(f"{name}==1.0 --hash=sha256:{digest}\n")
        command = [
            sys.executable, "-m", "pip", "download", "--isolated", "--no-cache-dir", "--no-deps",
            "--require-hashes", "-r", str(requirements), "-d", str(tmp_path),
            "--index-url", server.pip_url(dev),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, check=False)
        assert (done.returncode == 0) == fine, done.stdout
