"""The interpreter and its allocator, set for a process that serves for months."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from typing import Final

_M_ARENA_MAX: Final = -8  # mallopt(3)
_ARENAS: Final = 2


def share_arenas() -> None:
    """Have glibc's allocator give all threads few arenas; call it before threads are started.

    By default each thread has one of its own, and what it frees there is of no use to the others:
    a sixth of a primary's memory.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def spare_the_collector() -> None:
    """Have the cycle collector leave alone what is there now.

    Modules, classes and routes stay until the end. To go through them again and again is a quarter
    of what it takes to decode and apply entries, and holds up everybody.
    """
    gc.collect()
    gc.freeze()
