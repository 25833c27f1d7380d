"""The requests of an import, on one connection, repeated when it breaks: all may come twice."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

import orjson
from attrs import define, field

from cluster.errors import InvalidRequest

_TRIES: Final = 5
_WAIT_SECONDS: Final = 2.0
_TIMEOUT_SECONDS: Final = 120.0
_BLOCK_BYTES: Final = 256 << 10
_MAX_ANSWER_BYTES: Final = 4 << 20


class BrokenOff(Exception):
    """The import cannot go on now; the message says why. It can be run again."""


@define
class PrimaryClient:
    """Talks to the primary at `url` as a user with a password."""

    _url: str
    _user: str
    _password: str = field(repr=False)
    _sleep: Callable[[float], None] = time.sleep
    _connection: HTTPConnection | None = None

    def check(self) -> None:
        """Make sure that a primary listens; raises BrokenOff."""
        status = self._send("GET", "/+status", {}, lambda: b"")
        role = str(status.get("result", status).get("role", "")).lower()
        if role == "replica":
            raise BrokenOff(f"{self._url} is a replica: give the URL of its primary")

    def put_things(self, things: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Send things; what the primary answers for each.

        Raises InvalidRequest with the primary's reason if it refuses all, BrokenOff if it does
        not answer or takes nothing from this user.
        """
        data = orjson.dumps({"things": things})
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        return list(self._send("PUT", "/+import/things", headers, lambda: data)["result"])

    def put_bytes(self, path: Path, sha256: str) -> None:
        """Send a file's bytes; raises as `put_things` does."""
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(path.stat().st_size),
        }
        self._send("PUT", f"/+import/bytes?sha256={sha256}", headers, lambda: path.open("rb"))

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Callable[[], bytes | BinaryIO],
    ) -> dict[str, Any]:
        reason = ""
        for attempt in range(_TRIES):
            if attempt:
                self._sleep(_WAIT_SECONDS)
            try:
                status, data = self._once(method, path, headers, body())
            except (OSError, HTTPException) as error:
                self.close()
                reason = f"{self._url} cannot be reached: {error or type(error).__name__}"
                continue
            if status < 500 and status != 429:
                return self._judged(status, data)
            reason = f"{self._url} answers {status}: {_message(data)}"
        raise BrokenOff(reason)

    def _once(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | BinaryIO
    ) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = self._connect()
        pair = base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
        every = {"Accept": "application/json", "Authorization": f"Basic {pair}"}
        try:
            answer = self._exchange(self._connection, method, path, body, {**headers, **every})
            status, data = answer.status, answer.read(_MAX_ANSWER_BYTES)
        finally:
            if not isinstance(body, bytes):
                body.close()
        if answer.will_close:
            self.close()
        return status, data

    def _exchange(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        body: bytes | BinaryIO,
        headers: Mapping[str, str],
    ) -> HTTPResponse:
        target = urlsplit(self._url).path.rstrip("/") + path
        # Refused before the body was through, the answer says why.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, target, body, dict(headers))
        return connection.getresponse()

    def _connect(self) -> HTTPConnection:
        parts = urlsplit(self._url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        return kind(
            parts.hostname or "", parts.port, timeout=_TIMEOUT_SECONDS, blocksize=_BLOCK_BYTES
        )

    def _judged(self, status: int, data: bytes) -> dict[str, Any]:
        if status in (401, 403):
            raise BrokenOff(f"{self._url} answers {status}: {_message(data)}")
        if not 200 <= status < 300:
            raise InvalidRequest(_message(data) or f"the primary answers {status}")
        try:
            document = json.loads(data)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise BrokenOff(f"{self._url} is no pymirror primary: it does not answer with JSON")
        return document


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data[:500].decode("utf-8", "replace").strip()
