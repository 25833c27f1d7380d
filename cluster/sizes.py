"""Sizes as people write them (pure)."""

from __future__ import annotations

import re
from typing import Final

from cluster.errors import InvalidRequest

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([kKmMgGtT]?)(i?)[bB]?", re.ASCII)
_MOST: Final = 1 << 60
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """Bytes: ``50GB`` and ``50G`` are 50·10⁹, ``50GiB`` is 50·2³⁰, ``1000`` is 1000.

    Raises InvalidRequest.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(f"{text!r} is not a size such as 50GB, 512MiB or 1000")
    number, unit, binary = match.groups()
    size = int(float(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()])
    if size > _MOST:
        raise InvalidRequest(f"{text!r} is more than any disk has")
    return size
