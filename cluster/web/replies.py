"""Answers, and the one place where errors become answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson
from attrs import evolve, field, frozen
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES
from twisted.web.server import Request

from cluster.errors import (
    AuthenticationRequired,
    DiskRefused,
    PymirrorError,
    TooManyRequests,
    Unavailable,
)
from cluster.protocol import PRIMARY_HEADER

_log = Logger()
_UNSAFE_IN_REASON = re.compile(r"[^\x20-\x7e\xa0-\xff]+")
REALM = "pymirror"


@frozen
class Reply:
    """A whole answer; `reason` replaces the status line's usual phrase."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(factory=dict)
    reason: str | None = None


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """A JSON document, indented for people with curl. devpi-client compares the type literally."""
    body = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return Reply(status, body, headers=headers or {})


def text_reply(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """A line for people."""
    return Reply(status, (text + "\n").encode(), "text/plain; charset=utf-8", headers or {})


def redirect(location: str, status: int = 301) -> Reply:
    """Send the client to another path on the same host."""
    reply = text_reply(f"see {location}", status)
    return Reply(status, reply.body, reply.content_type, {"Location": location})


def error_reply(failure: Failure, accept: str, *, in_reason: bool = False) -> Reply:
    """The answer for an error: its status and message; for what we did not foresee a bare 500.

    With `in_reason` the message is the status line's reason whatever is accepted: of uploads,
    twine and devpi-client print only that (standards U5).
    """
    error = failure.value
    if not isinstance(error, PymirrorError):
        _log.failure("an unforeseen error", failure)
        error = PymirrorError("internal error; the node's log has the details")
    headers: dict[str, str] = {"Cache-Control": "no-store"}
    if error.status == 404:
        headers = {"Cache-Control": "max-age=10"}
    if isinstance(error, AuthenticationRequired):
        headers["WWW-Authenticate"] = f'Basic realm="{REALM}"'
    if isinstance(error, Unavailable | TooManyRequests | DiskRefused):
        headers["Retry-After"] = str(error.retry_after_seconds)
    primary_url = getattr(error, "primary_url", None)
    if primary_url is not None:
        headers[PRIMARY_HEADER] = primary_url
    message = str(error) or RESPONSES.get(error.status, b"error").decode()
    reply = message_reply(error.status, message, accept)
    return evolve(reply, headers=headers, reason=message if in_reason else reply.reason)


def message_reply(status: int, message: str, accept: str) -> Reply:
    """A message as the client wants it: JSON, or a line of text that is also the reason.

    devpi-client prints the reason and the message of a JSON answer one after the other.
    """
    if "json" in accept:
        return json_reply({"message": message, "code": status}, status)
    return evolve(text_reply(message, status), reason=message)


def send(request: Request, reply: Reply) -> None:
    """Write a whole answer; the caller finishes the request."""
    reason = reply.reason and _UNSAFE_IN_REASON.sub(" ", reply.reason)[:300].strip()
    request.setResponseCode(reply.status, reason.encode("latin-1") if reason else None)
    for name, value in reply.headers.items():
        request.setHeader(name, value)
    if reply.status not in (204, 304):
        request.setHeader("Content-Type", reply.content_type)
        request.setHeader("Content-Length", str(len(reply.body)))
    if request.method != b"HEAD" and reply.body and reply.status not in (204, 304):
        request.write(reply.body)
