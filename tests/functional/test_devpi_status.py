"""devpi's headers and status fields, and the warning about root, on real nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.processes import Answer, Cluster, basic, eventually

pytestmark = pytest.mark.functional


def devpi_headers(answer: Answer) -> dict[str, str]:
    """Those that devpi-client and devpi's tools look for."""
    return {n: v for n, v in answer.headers.items() if n.startswith("x-devpi-")}


def test_headers_and_status(tmp_path: Path) -> None:
    """Every answer says which log and serial, errors and pages from memory too; status has
    devpi's roles."""
    with Cluster(tmp_path) as cluster:
        primary = cluster.primary(None)
        replica = cluster.replica(primary)
        log = primary.status()["log_identity"]["log"]
        for node in (primary, replica):
            for path in ("/", "/+api", "/+status", "/root/none", "/nothing/+here"):
                headers = devpi_headers(node.get(path, accept="application/json"))
                assert headers["x-devpi-api-version"] == "2", path
                assert headers["x-devpi-uuid"] == node.status()["uuid"]
                assert headers["x-devpi-master-uuid"] == headers["x-devpi-primary-uuid"] == log
                assert headers["x-devpi-serial"] == str(node.status()["serial"])
        assert primary.status()["result"]["role"] == "MASTER"
        result = replica.status()["result"]
        assert (result["role"], result["primary-url"]) == ("REPLICA", primary.url)
        assert primary.status()["type"] == "status"
        polling = eventually(
            lambda: primary.status()["result"]["polling_replicas"], 10, "the replica has polled"
        )
        assert set(polling) == {replica.status()["uuid"]}


def test_warning_about_root(tmp_path: Path) -> None:
    """Both nodes warn, in status and log, until root gets a password; and again after none."""
    with Cluster(tmp_path) as cluster:
        primary = cluster.primary(None)
        replica = cluster.replica(primary)
        for node in (primary, replica):
            (warning,) = node.status()["warnings"]
            assert "root has no password" in warning
            assert warning in node.log_text()
        body = json.dumps({"password": "a root password"}).encode()
        changed = primary.request("PATCH", "/root", body=body, headers=basic("root", ""))
        assert changed.status == 200, changed
        for node in (primary, replica):
            eventually(lambda n=node: not n.status()["warnings"], 10, "no warning")  # type: ignore[misc]
