"""Which requests are uploads: known from the headers alone, before any byte of the body."""

from __future__ import annotations

from cluster.web.request import NodeRequest

_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
"""The second comes with ``:action=submit``, which has no file."""


def upload_target(request: NodeRequest) -> tuple[str, str] | None:
    """(user, index) when a request is an upload by its method, path and type; else None."""
    if request.method != b"POST":
        return None
    if not (request.header("Content-Type") or "").lower().startswith(_FORMS):
        return None
    parts = request.path.decode("ascii", "replace").strip("/").split("/")
    if len(parts) != 2 or any(part.startswith("+") or not part for part in parts):
        return None
    request.is_upload = True  # for the counts
    return parts[0], parts[1]
