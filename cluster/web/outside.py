"""The URL by which clients reach this node: what absolute links begin with (devpi-api §1)."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from cluster.web.request import NodeRequest

OUTSIDE_URL_HEADER: Final = "X-Outside-Url"

_HOST = re.compile(r"[A-Za-z0-9._~-]+(?::\d{1,5})?|\[[0-9A-Fa-f:.]+\](?::\d{1,5})?", re.ASCII)
_URL = re.compile(r"https?://[!-~]+", re.ASCII)


def outside_url(request: NodeRequest, configured: str | None) -> str:
    """Scheme, host and perhaps a path, without a slash at the end.

    The header X-Outside-Url, which a front sets, comes before `configured` (``--outside-url``),
    and that before the header Host. What cannot be a URL is passed over: it is copied into
    links, and anybody can send it.
    """
    for candidate in (request.header(OUTSIDE_URL_HEADER), configured):
        if candidate and _is_base(candidate):
            return candidate.rstrip("/")
    scheme = "https" if request.isSecure() else "http"
    return f"{scheme}://{_host(request)}"


def _is_base(url: str) -> bool:
    if not _URL.fullmatch(url):
        return False
    try:
        parts = urlsplit(url)
        return _HOST.fullmatch(parts.netloc) is not None and not parts.query and not parts.fragment
    except ValueError:
        return False


def _host(request: NodeRequest) -> str:
    given = request.header("Host") or ""
    if _HOST.fullmatch(given):
        return given
    own = request.getHost()
    host = str(getattr(own, "host", "localhost"))
    port = getattr(own, "port", None)
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"
