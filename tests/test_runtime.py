"""What a node sets in its interpreter holds, in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

_ARENAS = """
import ctypes, sys, threading
from cluster.runtime import share_arenas
if sys.argv[2] == "shared":
    share_arenas()
all_here = threading.Barrier(8)

def work():
    kept = [bytearray(100_000) for _ in range(20)]
    all_here.wait()

threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""
_FROZEN = """
import gc, weakref
from cluster.runtime import spare_the_collector
spare_the_collector()
assert gc.get_freeze_count() > 1_000

class Later:
    pass

one = Later()
one.itself = one
gone = weakref.ref(one)
del one
gc.collect()
assert gone() is None
"""


def _run(program: str, *arguments: str) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    line = [sys.executable, "-c", program, *arguments]
    subprocess.run(line, check=True, timeout=60, env=env)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator alone")
def test_arenas(tmp_path: Path) -> None:
    """Eight threads that allocate have two arenas; without it they have more."""
    for mode, is_shared in (("shared", True), ("own", False)):
        report = tmp_path / mode
        _run(_ARENAS, str(report), mode)
        assert (report.read_text().count("<heap nr=") <= 2) == is_shared


def test_collector() -> None:
    """What was there at the start is not looked through again; what comes later is."""
    _run(_FROZEN)
