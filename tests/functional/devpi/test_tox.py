"""devpi test: tox on a release of the index, without any other network."""

from __future__ import annotations

import pytest

from tests.builders import wheel
from tests.functional.devpi.client import Client
from tests.functional.devpi.servers import Account, Server, new_index, unique
from tests.functional.devpi.sources import sdist_with_tests

pytestmark = [pytest.mark.functional, pytest.mark.slow]


def _upload(server: Server, account: Account, command: str, version: str = "1.0") -> str:
    """Upload a release to be tested; its tests need another project of the index."""
    name, needed = unique("toxed"), unique("helper")
    built = sdist_with_tests(
        name, version, requires=needed, command=command.format(name=name, needed=needed)
    )
    for one in (wheel(needed, "1.0"), built):
        assert server.upload(account.dev, one, account.auth).status == 200
    return name


def test_passing(devpi: Client, server: Server, account: Account) -> None:
    """The release and its test dependency come from the index, the result goes to it."""
    name = _upload(server, account, 'python -c "import {name}, {needed}"')
    output = devpi("test", name)
    assert f"posting tox result data to {server.url}/{account.dev}/+f/" in output
    assert "success" in output
    assert "tests passed" in devpi("list", "-t", name)


def test_failing(devpi: Client, server: Server, account: Account) -> None:
    """A test that fails makes the command fail, and its output is kept; -e picks environments."""
    name = _upload(server, account, "python -c \"raise SystemExit('it broke')\"")
    output = devpi.fails("test", "-e", "py", f"{name}==1.0")
    assert "tox command failed" in output
    failures = devpi("list", "-f", name)
    assert "tests failed" in failures
    assert "it broke" in failures


def test_without_upload(devpi: Client, server: Server, account: Account) -> None:
    """--no-upload keeps the result; --index tests another index; -c another configuration."""
    name = _upload(server, account, "python -c 1")
    ini = devpi.home / "other.ini"
    ini.write_text("[tox]\nenvlist = py\n[testenv]\ncommands = python -c \"print('otherwise')\"\n")
    new_index(server, account, "empty")
    devpi("use", "empty")
    output = devpi("test", "--index", account.dev, "--no-upload", "-c", ini, name)
    assert "otherwise" in output
    assert server.links(account.dev, name, "toxresult") == {}


def test_list(devpi: Client, server: Server, account: Account) -> None:
    """--list names the files that would be tested; -s picks files."""
    name = _upload(server, account, "python -c 1")
    output = devpi("test", "--list", "-s", "tar.gz", name)
    assert f"/{account.dev}/+f/" in output
    assert f"{name}-1.0.tar.gz" in output


def test_unknown(devpi: Client) -> None:
    """A project that the index does not have."""
    assert "could not find/receive links for nothing" in devpi.fails("test", "nothing")


def test_result_refused(devpi: Client, server: Server, account: Account) -> None:
    """Where nobody may upload results the client says so."""
    name = _upload(server, account, "python -c 1")
    devpi("index", "acl_toxresult_upload=")
    output = devpi.run("test", name)[1]
    assert "No permission to upload tox results" in output
    assert server.links(account.dev, name, "toxresult") == {}
