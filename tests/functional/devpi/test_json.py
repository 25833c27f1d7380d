"""devpi getjson and patchjson."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.builders import wheel
from tests.functional.devpi.client import Client
from tests.functional.devpi.servers import Account, Server, unique

pytestmark = pytest.mark.functional


def _getjson(client: Client, path: str) -> Any:
    return json.loads(client("getjson", path))


def test_root(devpi: Client, account: Account) -> None:
    """/ is all users with their indexes."""
    document = _getjson(devpi, "/")
    assert document["type"] == "list:userconfig"
    assert document["result"][account.name]["indexes"]["dev"]["type"] == "stage"


def test_user(devpi: Client, account: Account) -> None:
    """/USER is one user."""
    document = _getjson(devpi, f"/{account.name}")
    assert document["type"] == "userconfig"
    assert document["result"]["username"] == account.name
    assert set(document["result"]["indexes"]) == {"dev"}


def test_index(devpi: Client, account: Account, dev: str) -> None:
    """/USER/INDEX is the whole configuration of an index and the names of its projects."""
    document = _getjson(devpi, f"/{dev}")
    assert document["type"] == "indexconfig"
    expected = {
        "type": "stage", "bases": [], "volatile": True, "acl_upload": [account.name],
        "acl_toxresult_upload": [":ANONYMOUS:"], "mirror_whitelist": [],
        "mirror_whitelist_inheritance": "intersection", "projects": [],
    }  # fmt: skip
    assert {key: document["result"].get(key) for key in expected} == expected
    assert "projects" not in _getjson(devpi, f"/{dev}?no_projects=")["result"]


def test_project(devpi: Client, server: Server, account: Account, dev: str) -> None:
    """A project is its versions, a version its metadata and links."""
    name = unique("json")
    built = wheel(name, "1.0", requires_python=">=3.8")
    server.upload(dev, built, account.auth, keywords="some words", license="MIT")
    document = _getjson(devpi, f"/{dev}/{name}")
    assert document["type"] == "projectconfig"
    version = document["result"]["1.0"]
    single = _getjson(devpi, f"/{dev}/{name}/1.0")
    assert single["type"] == "versiondata"
    assert single["result"] == version
    stated = {"name": name, "version": "1.0", "requires_python": ">=3.8", "license": "MIT"}
    assert {key: version[key] for key in stated} == stated
    assert version["keywords"] == "some words"
    (link,) = version["+links"]
    relpath = f"{dev}/+f/{built.sha256[:3]}/{built.sha256[3:16]}/{built.filename}"
    assert link["rel"] == "releasefile"
    assert link["href"] == f"{server.url}/{relpath}#sha256={built.sha256}" or (
        link["href"] == f"{server.url}/{relpath}"
    )
    assert link["hash_spec"] == f"sha256={built.sha256}"
    assert link["hashes"]["sha256"] == built.sha256
    (log,) = link["log"]
    assert (log["what"], log["who"], log["dst"]) == ("upload", account.name, dev)
    assert len(log["when"]) == 6


def test_file(devpi: Client, server: Server, account: Account, dev: str) -> None:
    """A file as JSON is what the server knows of it."""
    name = unique("json")
    built = wheel(name, "1.0")
    server.upload(dev, built, account.auth)
    path = f"/{dev}/+f/{built.sha256[:3]}/{built.sha256[3:16]}/{built.filename}"
    document = _getjson(devpi, path)
    assert document["type"] == "releasefilemeta"
    result = document["result"]
    assert (result["project"], result["version"]) == (name, "1.0")
    assert result["hash_spec"] == f"sha256={built.sha256}"


def test_headers(devpi: Client) -> None:
    """-v shows the headers, devpi's among them."""
    output = devpi("getjson", "-v", "/")
    for name in ("API-VERSION: 2", "SERVER-VERSION:", "UUID:", "MASTER-UUID:", "SERIAL:"):
        assert f"X-DEVPI-{name}" in output


def test_status(devpi: Client, server: Server) -> None:
    """+status is a document of type status with the role of the node."""
    document = _getjson(devpi, "/+status")
    assert document["type"] == "status"
    role = {"primary": "MASTER", "replica": "REPLICA"}[server.name]
    assert document["result"]["role"] == role


def test_absolute_url(bare: Client, server: Server, dev: str) -> None:
    """A whole URL needs no current server."""
    assert _getjson(bare, f"{server.url}/{dev}")["type"] == "indexconfig"


def test_api(devpi: Client, server: Server, account: Account, dev: str) -> None:
    """+api says who asks, and where the parts of an index are."""
    result = _getjson(devpi, f"/{dev}/+api")["result"]
    assert result["authstatus"][:2] == ["ok", account.name]
    assert result["login"] == f"{server.url}/+login"


def test_not_found(devpi: Client) -> None:
    """What does not exist is said so."""
    assert "404 Not Found: no user 'nobody'" in devpi.fails("getjson", "/nobody")


def test_patch_values(devpi: Client, server: Server, dev: str) -> None:
    """A patch of an index sets what it names and nothing else."""
    file = devpi.home / "patch.json"
    file.write_text(json.dumps({"title": "T", "volatile": False}))
    output = devpi("patchjson", f"/{dev}", file)
    assert f"PATCH REQUEST sent to {server.url}/{dev}" in output
    config = server.result(f"/{dev}")
    assert (config["title"], config["volatile"], config["type"]) == ("T", False, "stage")


def test_patch_operators(devpi: Client, server: Server, account: Account, dev: str) -> None:
    """A patch may be a list of operators; "-" reads it from standard input."""
    devpi("patchjson", f"/{dev}", "-", stdin='["acl_upload+=other", "title=T"]')
    config = server.result(f"/{dev}")
    assert config["acl_upload"] == [account.name, "other"]
    assert config["title"] == "T"


def test_patch_with_the_whole_answer(devpi: Client, server: Server, dev: str) -> None:
    """What getjson gave may be sent back, changed."""
    document = _getjson(devpi, f"/{dev}")
    document["result"]["title"] = "changed"
    devpi("patchjson", f"/{dev}", "-", stdin=json.dumps(document))
    assert server.result(f"/{dev}")["title"] == "changed"


def test_patch_user(devpi: Client, server: Server, account: Account) -> None:
    """Users are patched alike; custom_data may be any JSON."""
    patch = json.dumps({"custom_data": {"team": ["a", "b"]}})
    devpi("patchjson", f"/{account.name}", "-", stdin=patch)
    assert server.result(f"/{account.name}")["custom_data"] == {"team": ["a", "b"]}


def test_patch_refused(devpi: Client, dev: str) -> None:
    """A bad value is refused with its name."""
    output = devpi.fails("patchjson", f"/{dev}", "-", stdin='{"shoe_size": 43}')
    assert "400 Bad Request" in output
    assert "shoe_size" in output
