"""What a request asks for, as devpi reads it (devpi-api §1)."""

from __future__ import annotations

from typing import Any, Final

import orjson

from cluster.errors import InvalidRequest
from cluster.web.request import NodeRequest

_INSTALLERS: Final = {"distribute", "setuptools", "pip", "pex", "uv"}
_SIMPLE: Final = "application/vnd.pypi.simple."


def wants_json(request: NodeRequest) -> bool:
    """Whether devpi's JSON is asked for: the type's name anywhere in Accept, as devpi has it."""
    return "application/json" in (request.header("Accept") or "")


def wants_simple(request: NodeRequest) -> bool:
    """Whether an installer asks, which wants the simple API wherever it looks."""
    if wants_json(request):
        return False
    products = (request.header("User-Agent") or "").split(" ")
    is_installer = any("/" in p and p.partition("/")[0] in _INSTALLERS for p in products)
    return is_installer or _SIMPLE in (request.header("Accept") or "")


def json_body(request: NodeRequest) -> Any:
    """The body as JSON, None when it is empty; raises InvalidRequest."""
    body = request.content.read()
    if not body.strip():
        return None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise InvalidRequest("Bad request: could not decode json") from None


def json_object(request: NodeRequest) -> dict[str, Any]:
    """The body as a JSON object, an empty one when there is no body; raises InvalidRequest."""
    given = json_body(request)
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidRequest("the body must be a JSON object")
    return given
