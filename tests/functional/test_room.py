"""Uploads are refused before the disk is full, and when too few replicas could get them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD, no_temporary_files, upload
from tests.processes import Cluster, Node, basic

pytestmark = pytest.mark.functional

MORE_THAN_THERE_IS = "900TB"
Site = tuple[Cluster, Node, Node]


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A primary that takes no uploads for want of room, with an older one, and a replica."""
    with Cluster(tmp_path_factory.mktemp("room")) as nodes:
        primary = nodes.primary(None, root_password=ROOT_PASSWORD)
        primary.put_index("root/dev", ROOT_PASSWORD, type="stage")
        assert upload(primary, "root/dev", wheel("older", "1.0")).status == 200
        primary.terminate()
        primary = nodes.become(primary, "pymirror-primary", "--min-free", MORE_THAN_THERE_IS)
        yield nodes, primary.start(), nodes.replica(primary)


def test_no_room(site: Site) -> None:
    """Below --min-free an upload gets 503 with the reason and when to come again, also through a
    replica, and leaves nothing; everything else goes on, and so do uploads when there is room."""
    nodes, primary, replica = site
    serial = primary.status()["serial"]
    built = wheel("demo", "1.0", size=3_000_000)
    for node in (primary, replica):
        answer = upload(node, "root/dev", built)
        assert answer.status == 503, answer
        assert answer.headers["retry-after"] == "30"
        assert "--min-free" in answer.reason
    assert primary.status()["serial"] == serial
    no_temporary_files(primary, replica)
    disk = primary.status()["disk"]
    assert 0 < disk["free_bytes"] < disk["floor_bytes"] == 900 * 10**12
    assert replica.page("root/dev", "older").status == 200
    gone = primary.request("DELETE", "/root/dev/older", headers=basic("root", ROOT_PASSWORD))
    assert gone.status == 200, gone
    primary.terminate()
    roomy = nodes.become(primary, "pymirror-primary", "--min-free", "0").start()
    assert upload(roomy, "root/dev", built).status == 200


def test_the_size_counts(site: Site) -> None:
    """An upload that would leave too little is refused before its bytes are taken, also through a
    replica; a smaller one is not."""
    nodes, primary, replica = site
    free = primary.status()["disk"]["free_bytes"]
    primary.terminate()
    floor = max(1, free - (8 << 30))
    primary = nodes.become(primary, "pymirror-primary", "--min-free", str(floor)).start()
    headers = {
        **basic("root", ROOT_PASSWORD), "Content-Type": "multipart/form-data; boundary=b",
        "Expect": "100-continue", "Content-Length": str(9 << 30),
    }  # fmt: skip
    for node in (primary, replica):
        answer = node.request("POST", "/root/dev/", headers=headers)
        assert (answer.status, answer.headers["retry-after"]) == (503, "30"), answer
        assert upload(node, "root/dev", wheel("small", "1.0")).status == 200
