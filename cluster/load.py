"""How busy this machine is."""

from __future__ import annotations

import os


def busy() -> float:
    """The load over the last minute: 1 means that all processors are busy."""
    try:
        return round(os.getloadavg()[0] / (os.cpu_count() or 1), 3)
    except OSError:  # not everywhere
        return 0.0
