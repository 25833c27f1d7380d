"""Blocking HTTP for the bench: one keep-alive connection, form encoding, Basic credentials."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from attrs import frozen

from bench.data import DataFile

_BOUNDARY = "pymirror-bench-boundary-7d1b54c0"
TIMEOUT_SECONDS = 60.0


class BenchError(Exception):
    """Something to be measured did not work; the text says what, for people."""


class NotOffered(BenchError):
    """A server does not have what is to be measured: worth a note, not a failure."""


@frozen
class Address:
    """Where a server listens, on loopback."""

    port: int
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """The server's root URL, without a slash at its end."""
        return f"http://{self.host}:{self.port}"


@frozen
class Answer:
    """A complete HTTP answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class Connection:
    """A keep-alive connection; a context manager. A server that closed it is dialled again."""

    def __init__(self, address: Address, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._http = http.client.HTTPConnection(address.host, address.port, timeout=timeout_seconds)

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Ask, and read the whole answer; raises OSError or http.client.HTTPException."""
        try:
            self._http.request(method, path, body=body, headers=dict(headers or {}))
            response = self._http.getresponse()
            content = response.read()
        except BaseException:
            self._http.close()
            raise
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, content)


def get(address: Address, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    """GET on a connection of its own; raises BenchError unless the answer is 200."""
    with Connection(address) as connection:
        answer = connection.request("GET", path, headers)
    if answer.status != http.HTTPStatus.OK:
        raise BenchError(f"GET {address.url}{path} answered {answer.status}")
    return answer


def put_json(address: Address, path: str, headers: Mapping[str, str], value: object) -> None:
    """PUT a JSON value; raises BenchError unless the answer is 200 or 201."""
    body = json.dumps(value).encode()
    with Connection(address) as connection:
        answer = connection.request(
            "PUT", path, {**headers, "Content-Type": "application/json"}, body
        )
    if answer.status not in (http.HTTPStatus.OK, http.HTTPStatus.CREATED):
        raise BenchError(f"PUT {path} answered {answer.status}: {answer.body[:200]!r}")


def basic(user: str, password: str) -> dict[str, str]:
    """The header of Basic authentication (RFC 7617)."""
    credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {credentials}"}


def upload_body(file: DataFile) -> bytes:
    """The legacy upload form of a file, as multipart/form-data."""
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in file.form_fields().items()
    ]
    parts.append(
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="content"; '
        f'filename="{file.filename}"\r\nContent-Type: application/octet-stream\r\n\r\n'
    )
    return "".join(parts).encode() + file.content + f"\r\n--{_BOUNDARY}--\r\n".encode()


def upload_headers(credentials: Mapping[str, str]) -> dict[str, str]:
    """Headers of an upload whose body is from `upload_body`."""
    return {**credentials, "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}


def free_port() -> int:
    """A TCP port of loopback that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def is_answering(address: Address, path: str) -> bool:
    """Whether a GET is answered with 200 now."""
    try:
        with Connection(address, timeout_seconds=5.0) as connection:
            return connection.request("GET", path).status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False


def now() -> float:
    """Seconds on the clock by which everything here is timed."""
    return time.perf_counter()
