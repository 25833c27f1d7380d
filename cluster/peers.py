"""The other nodes of the cluster, as a node's folder remembers them for the time without a primary.

`pymirror promote` asks them how far they are, and a new primary tells them that it owns the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from cluster.durable import write_durably

NODES_FILE: Final = "nodes.json"
URLS_FILE: Final = "primary-urls"
"""URLs that the replica was given to follow, one a line."""
_MOST = 1_000


def is_url(text: str) -> bool:
    """Whether a node can be asked there at all: an http(s) URL of a host, and maybe a port."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port  # raises ValueError for what is no port
    except ValueError:
        return False
    plain = text.isascii() and text.isprintable() and " " not in text and "@" not in parts.netloc
    return plain and parts.scheme in ("http", "https") and bool(host) and port != 0


def urls_of(nodes: Iterable[Mapping[str, Any]], own: str) -> list[str]:
    """The URLs of the nodes in a list as `GET /+nodes` gives it, without that of the node `own`."""
    urls = [one.get("url") for one in nodes if one.get("uuid") != own]
    return [url.rstrip("/") for url in dict.fromkeys(urls) if isinstance(url, str)][:_MOST]


def keep(state_dir: Path, urls: Iterable[str]) -> None:
    """Remember where the other nodes are; blocking."""
    write_durably(state_dir / NODES_FILE, orjson.dumps(list(urls), option=orjson.OPT_INDENT_2))


def kept(state_dir: Path) -> list[str]:
    """The URLs of the other nodes, as this folder's node heard of them last; blocking."""
    try:
        urls = orjson.loads((state_dir / NODES_FILE).read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return []
    return [url for url in urls if isinstance(url, str)] if isinstance(urls, list) else []


def followed(state_dir: Path) -> list[str]:
    """Whom this folder's node was given to follow; blocking."""
    try:
        return (state_dir / URLS_FILE).read_text().split()
    except FileNotFoundError:
        return []
