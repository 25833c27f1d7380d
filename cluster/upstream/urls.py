"""Where upstreams have things (pure)."""

from __future__ import annotations

from urllib.parse import quote, urlsplit


def project_url(mirror_url: str, project: str) -> str:
    """Where an upstream has the page of a project, or (empty name) its project list."""
    base = f"{mirror_url.rstrip('/')}/"
    return f"{base}{quote(project)}/" if project else base


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port (RFC 6454): what may see a password."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
