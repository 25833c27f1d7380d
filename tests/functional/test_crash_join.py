"""A crash at each call that keeps something of a join (docs/protocol.md, Joining)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.functional.crashing import (
    SOAK,
    check_folder,
    start_killed_at,
    start_points,
    temporaries,
)
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots
from tests.functional.test_joining import invite, joining
from tests.processes import Cluster
from tests.strace import require_strace, spread

pytestmark = [pytest.mark.functional, pytest.mark.slow, pytest.mark.timeout(3_600 if SOAK else 400)]


def test_join(nodes: Cluster, tmp_path: Path) -> None:
    """A replica that dies while it joins is admitted by the same token when it is started again,
    with the key that the log names."""
    require_strace()
    primary = nodes.primary(root_password=ROOT_PASSWORD)
    node, trace = joining(nodes, primary, invite(primary), "joined"), tmp_path / "trace"
    found = start_points(node, trace)
    assert found
    for point in [None, *(found if SOAK else spread(found, 6))]:
        shutil.rmtree(node.state_dir)
        (nodes.directory / "joined.token").write_text(invite(primary))
        if point is not None:
            start_killed_at(node, point, trace)
        node.start()
        node.wait_serial(primary.status()["serial"])
        check_same_roots([primary, node])
        assert (node.state_dir / "node-key").exists(), point
        assert not (node.state_dir / "node-key.joining").exists(), point
        assert temporaries(node.state_dir) == [], point
        node.kill()
        check_folder(node.state_dir, whole=True)
