"""X-Pymirror-Min: a client that has seen a serial never reads less, on whatever node it asks."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots, upload
from tests.processes import Cluster, basic

pytestmark = pytest.mark.functional


def test_reads_at_least_that(tmp_path: Path) -> None:
    """A replica that is behind waits, then has the primary answer as the client itself; without
    a primary it says 503, and a primary asked for the future 504."""
    with Cluster(tmp_path) as cluster:
        primary = cluster.primary(None, root_password=ROOT_PASSWORD)
        primary.put_index("root/dev", ROOT_PASSWORD, type="stage")
        primary.put_index("root/secret", ROOT_PASSWORD, type="stage", acl_pkg_read=["root"])
        replica = cluster.replica(primary)
        built = wheel("seen", "1.0")
        done = upload(primary, "root/dev", built)
        serial = done.headers["x-pymirror-serial"]
        path = "/root/dev/+simple/seen/"
        assert done.headers["x-pymirror-position"] == f"1.{serial}"
        through = upload(replica, "root/dev", wheel("through", "1.0")).headers
        assert through["x-pymirror-position"] == f"1.{through['x-pymirror-serial']}"
        assert int(through["x-pymirror-serial"]) > int(serial)
        again = upload(replica, "root/dev", wheel("through", "1.0")).headers
        assert again["x-pymirror-position"] == through["x-pymirror-position"]
        made = replica.put_index("root/more", ROOT_PASSWORD, type="stage").headers
        assert made["x-pymirror-position"] == f"1.{made['x-pymirror-serial']}"
        assert "x-pymirror-position" not in replica.get(path).headers
        for wanted in (serial, f"1.{serial}"):
            answer = replica.get(path, X_Pymirror_Min=wanted)
            assert answer.status == 200
            assert int(answer.headers["x-pymirror-serial"]) >= int(serial)
        for odd in ("soon", "soon.1", "1.", ".", "-1"):
            assert replica.get(path, X_Pymirror_Min=odd).status == 400, odd
        # A node that has not heard of an epoch may have another entry at that serial.
        assert primary.get(path, X_Pymirror_Min=f"2.{serial}").status == 504
        check_same_roots([primary, replica])
        assert primary.get(path, X_Pymirror_Min="999999").status == 504
        ahead = replica.get(path, X_Pymirror_Min="999999")
        assert (ahead.status, built.filename in ahead.body.decode()) == (200, True)
        # The primary must see the client, not the node that passes its request on.
        assert replica.get("/root/secret/+simple/", X_Pymirror_Min="999999").status == 401
        created = primary.request("PUT", "/bare", body=b'{"password": ""}')
        assert created.status == 201
        primary.put_index("bare/own", ROOT_PASSWORD, type="stage", acl_pkg_read=["bare"])
        check_same_roots([primary, replica])
        # Nor must an empty password count because the node that passes it on is near.
        far = {**basic("bare", ""), "X-Forwarded-For": "192.0.2.1"}
        for headers in (far, {**far, "X-Pymirror-Min": "999999"}):
            assert replica.request("GET", "/bare/own", headers=headers).status == 401
        os.kill(primary.pid, signal.SIGSTOP)
        try:
            assert replica.get(path, X_Pymirror_Min=serial).status == 200
            assert replica.get(path, X_Pymirror_Min="999999").status == 503
        finally:
            os.kill(primary.pid, signal.SIGCONT)
