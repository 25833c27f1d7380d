"""What a replica says of itself with each poll, read with suspicion: anything may come.

A field that cannot be what it should be is null, as if it had not been sent. The known fields
and their bounds are the table `_FIELDS`; others are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from cluster.errors import InvalidRequest
from cluster.nearest import MOST_WEIGHT
from cluster.networks import MOST_NETWORKS, parse_network

MOST_CHARACTERS: Final = 4_096
_MOST: Final = 2**53
_MOST_USES: Final = 100
_END_OF_TIME: Final = 253_402_300_800.0

Check = Callable[[Any], Any]
"""The value as it is kept, or None."""


def _text(most: int) -> Check:
    def check(value: Any) -> str | None:
        is_good = isinstance(value, str) and value.isprintable()
        return value[:most] if is_good and value else None

    return check


def _url(value: Any) -> str | None:
    if not isinstance(value, str) or len(value) > 300 or not value.isascii():
        return None
    try:
        parts = urlsplit(value)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return None
    return value if is_good and value.isprintable() and "@" not in parts.netloc else None


def _bool(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _whole(most: int) -> Check:
    def check(value: Any) -> int | None:
        return value if type(value) is int and 0 <= value <= most else None

    return check


def _number(value: Any) -> float | None:
    is_good = isinstance(value, int | float) and not isinstance(value, bool)
    return round(float(value), 3) if is_good and math.isfinite(value) and value >= 0 else None


def _time(value: Any) -> float | None:
    found = _number(value)
    return found if found is not None and found < _END_OF_TIME else None


def _networks(value: Any) -> list[str] | None:
    if not isinstance(value, list):
        return None
    found = []
    for name in value[:MOST_NETWORKS]:
        try:
            found.append(str(parse_network(name)) if isinstance(name, str) else "")
        except InvalidRequest:
            continue
    return [name for name in found if name]


_FIELDS: Final[Mapping[str, Check]] = {
    "outside_url": _url,
    "version": _text(40),
    "state": _text(40),
    "state_since": _time,
    "ready": _bool,
    "error": _text(200),
    "error_at": _time,
    "region": _text(64),
    "networks": _networks,
    "weight": _whole(MOST_WEIGHT),
    "load": _number,
    "files_in_sync": _bool,
    "files_missing": _whole(_MOST),
    "files_position": _whole(_MOST),
    "cache_bytes": _whole(_MOST),
    "rss_bytes": _whole(_MOST),
}


def read_report(header: str | None) -> tuple[dict[str, Any], dict[str, float]]:
    """The fields of the header X-Pymirror-Replica that are understood, null for the others; and
    when API tokens were used there lately, by id, in seconds since 1970.
    """
    said = _object(header)
    return {name: check(said.get(name)) for name, check in _FIELDS.items()}, _uses(said)


def _uses(said: dict[str, Any]) -> dict[str, float]:
    found = said.get("token_uses")
    if not isinstance(found, dict):
        return {}
    uses = {str(token)[:16]: _time(at) for token, at in list(found.items())[:_MOST_USES]}
    return {token: at for token, at in uses.items() if at is not None}


def _object(header: str | None) -> dict[str, Any]:
    try:
        said = orjson.loads((header or "{}")[:MOST_CHARACTERS])
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}
