"""SIGTERM finishes what is in flight."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from tests.builders import legacy_form, wheel
from tests.functional.helpers import ROOT_PASSWORD
from tests.processes import Cluster, basic, eventually

pytestmark = pytest.mark.functional


@pytest.mark.parametrize("through", [0, 1])
def test_an_upload_that_is_under_way_is_answered(nodes: Cluster, through: int) -> None:
    """A node that is told to end takes the rest of an upload and says that it is stored."""
    primary = nodes.primary(root_password=ROOT_PASSWORD)
    replica = nodes.replica(primary)
    primary.put_index("root/dev", ROOT_PASSWORD, type="stage")
    node = (primary, replica)[through]
    content_type, body = legacy_form(wheel("late", "1.0", size=200_000))
    fields = {
        "Host": "localhost", "Content-Type": content_type, "Content-Length": str(len(body)),
        **basic("root", ROOT_PASSWORD),
    }  # fmt: skip
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with socket.create_connection(("127.0.0.1", node.port), timeout=20) as client:
        client.sendall(f"POST /root/dev/ HTTP/1.1\r\n{head}\r\n".encode() + body[:100_000])
        eventually(lambda: list((primary.state_dir / "files/tmp").iterdir()), 10, "the first half")
        os.kill(node.pid, signal.SIGTERM)
        eventually(lambda: "shutting down" in node.log_text() or None, 10, "the signal")
        client.sendall(body[100_000:])
        answer = client.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 200 "), answer
