"""R5 at k = 2 with real processes: two of three disks are lost, no acknowledged upload is."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.builders import Built, legacy_form, wheel
from tests.functional.helpers import ROOT_PASSWORD, check_same_files, check_same_roots, upload
from tests.functional.test_promotion import command
from tests.processes import Cluster, Node, basic

pytestmark = pytest.mark.functional

CLIENTS = 3
AT_LEAST = 12


def test_two_disks_are_lost(tmp_path: Path) -> None:
    """With --sync-replicas 2 nothing is acknowledged that one of two replicas lacks; so the one
    that is left has every acknowledged upload with its bytes, although the primary and the other
    replica were destroyed in the middle of uploads."""
    with Cluster(tmp_path) as cluster:
        primary = cluster.primary(None, "--sync-replicas", "2", root_password=ROOT_PASSWORD)
        lost, left = (cluster.replica(primary, n, "--files", "full") for n in ("lost", "left"))
        primary.put_index("root/dev", ROOT_PASSWORD, type="stage")
        acked: list[Built] = []
        enough = threading.Event()

        def uploads(client: int) -> None:
            for number in range(1_000):
                built = wheel(f"c{client}", f"{number}", size=2_000)
                try:
                    if upload(primary, "root/dev", built).status != 200:
                        return
                except OSError:
                    return
                acked.append(built)
                if len(acked) >= AT_LEAST:
                    enough.set()

        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(uploads, client) for client in range(CLIENTS)]
            assert enough.wait(60)
            os.kill(left.pid, signal.SIGSTOP)
            content_type, body = legacy_form(wheel("late", "1.0"))
            headers = {**basic("root", ROOT_PASSWORD), "Content-Type": content_type}
            with pytest.raises(TimeoutError):
                primary.request("POST", "/root/dev/", body=body, headers=headers, timeout=3)
            for node in (primary, lost):
                node.kill()
                shutil.rmtree(node.state_dir)
            os.kill(left.pid, signal.SIGCONT)
            for client in clients:
                client.result(60)
        left.terminate()
        assert "does not answer" in command(cluster, "promote", left, "--outside-url", left.url)
        new = cluster.become(left, "pymirror-primary").start()
        check_same_files([new], "root/dev", acked)
        again: Node = cluster.replica(new, "again", "--files", "full")
        check_same_roots([new, again])
        check_same_files([again], "root/dev", acked)
