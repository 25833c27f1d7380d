"""Questions to running nodes, sent by a command in the name of a node."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from hashlib import sha256
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import define, frozen

from cluster.auth.nodekeys import NodeKey
from cluster.errors import LogError
from cluster.log.epochs import Start
from cluster.log.merkle import HASH_SIZE, TILE_WIDTH, frontier_at
from cluster.peers import is_url
from cluster.protocol import NODE_HEADER, TILE_PATH, node_token

_JSON: Final = "application/json"
SECONDS: Final = 10.0
LONG_SECONDS: Final = 120.0
"""For an answer that takes a node long to find, or to send."""
_MOST_BYTES = 4 << 20
_PIECE_BYTES = 256 << 10
_NO_ANSWER: Final = (OSError, ValueError, HTTPException)
"""What comes instead of an answer: no connection, no URL of a node, no HTTP."""


class NotAdmitted(LogError):
    """A node does not take who asks for a node of its cluster."""


@frozen
class Asked:
    """An answer: its status (0: none), and its JSON object, empty when it was something else."""

    status: int
    values: dict[str, Any]
    message: str


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """They would carry credentials away: an answer with one is taken for an error."""

    def redirect_request(self, *_: object) -> None:
        """Go nowhere."""


OPENER: Final = urllib.request.build_opener(_NoRedirects)
"""Sends credentials nowhere else than where they were meant for."""


@define
class NodeAnswers:
    """Asks as the node `uuid`, which knows the cluster's secret, and has a key of its own if it
    joined by one; without both, as nobody. `now` is seconds since 1970.

    `bases` are URLs of nodes that may be reached below a path, which their fronts take away.
    """

    _secret: bytes | None
    _uuid: str
    _now: Callable[[], float]
    _key: NodeKey | None = None
    _bases: Sequence[str] = ()

    def ask(
        self, method: str, url: str, body: object = None, *, seconds: float = SECONDS
    ) -> Asked:  # fmt: skip
        """One request, which may take so long; what goes wrong is in the answer."""
        data = None if body is None else json.dumps(body).encode()
        return _asked(
            lambda: _request(method, url, self._headers(method, url, _JSON), data), seconds
        )

    def status(self, node: str) -> Asked:
        """What a node says of itself to anybody: nothing shows yet that it is one of ours."""
        return _asked(lambda: _request("GET", node + "/+status", {"Accept": _JSON}))

    def read(self, url: str, accept: str = "*/*") -> bytes | None:
        """The body of an answer, None unless it is 200; raises LogError when none comes, and
        NotAdmitted when nodes take us for none.
        """
        found: bytes | None = self._opened(url, accept, lambda answer: answer.read())
        return found

    def _opened(self, url: str, accept: str, take: Callable[[Any], Any]) -> Any:
        try:
            request = _request("GET", url, self._headers("GET", url, accept))
            with OPENER.open(request, timeout=LONG_SECONDS) as answer:
                return take(answer)
        except urllib.error.HTTPError as error:
            _require_admitted(url, error)
            return None
        except _NO_ANSWER as error:
            raise LogError(f"{url}: {error}") from None

    def page(self, url: str, accept: str) -> tuple[bytes | None, str | None]:
        """The body of a project page, and the serial of the last change to it, if it says one.

        Raises as `read`.
        """
        found = self._opened(url, accept, lambda answer: (answer.read(), answer.headers))
        return (None, None) if found is None else (found[0], found[1]["X-PyPI-Last-Serial"])

    def digest(
        self, url: str, read: Callable[[int], None] = lambda size: None
    ) -> tuple[str | None, int]:
        """The sha256 and size of what a URL gives, read in pieces; None when it gives nothing.

        `read` hears of the bytes of each piece, and may wait. Raises NotAdmitted.
        """
        total, size = sha256(), 0
        try:
            request = _request("GET", url, self._headers("GET", url, "*/*"))
            with OPENER.open(request, timeout=LONG_SECONDS) as answer:
                while piece := answer.read(_PIECE_BYTES):
                    total.update(piece)
                    size += len(piece)
                    read(len(piece))
        except urllib.error.HTTPError as error:
            _require_admitted(url, error)
            return None, size
        except _NO_ANSWER:
            return None, size
        return total.hexdigest(), size

    def _headers(self, method: str, url: str, accept: str) -> dict[str, str]:
        headers = {"Accept": accept}
        if self._key is not None:
            token = self._key.token(self._uuid, method, self._path(url), self._now())
            return {**headers, NODE_HEADER: token}
        if self._secret is not None:
            return {**headers, NODE_HEADER: node_token(self._secret, self._uuid, self._now())}
        return headers

    def _path(self, url: str) -> str:
        # What the node sees, for that is what is signed.
        base = next((one for one in self._bases if url.startswith(f"{one}/")), None)
        path = urlsplit(url).path if base is None else urlsplit(url[len(base) :]).path
        return path if base is not None else path[max(0, path.find("/+")) :]

    def starts(self, url: str) -> list[Start]:
        """How the epochs of a node's log began; raises LogError."""
        answer = self.ask("GET", url)
        listed = answer.values.get("epochs")
        if answer.status != 200 or not isinstance(listed, list):
            raise LogError(f"{url} does not say which epochs there were: {answer.message}")
        return [Start.from_json(one) for one in listed]

    def root_at(self, node: str, size: int) -> bytes:
        """The Merkle root of the first `size` entries of a node's log, from its tiles.

        Raises LogError, NotAdmitted.
        """

        def tile(level: int, number: int) -> bytes:
            count = min(TILE_WIDTH, (size >> (8 * level)) - number * TILE_WIDTH)
            width = "" if count == TILE_WIDTH else f".p/{count}"
            data = self.read(f"{node}{TILE_PATH}/{level}/{number}{width}")
            if data is None or len(data) != count * HASH_SIZE:
                raise LogError(f"{node} does not give the log's tile {level}/{number}")
            return data

        return frontier_at(size, tile).root


def _request(
    method: str, url: str, headers: dict[str, str], data: bytes | None = None
) -> urllib.request.Request:
    """Raises ValueError for what is no URL of a node, such as that of a file."""
    if not is_url(url):
        raise ValueError(f"{url!r} is not a URL such as http://host:3141")
    return urllib.request.Request(url, data, headers, method=method)  # noqa: S310


def _asked(request: Callable[[], urllib.request.Request], seconds: float = SECONDS) -> Asked:
    try:
        with OPENER.open(request(), timeout=seconds) as answer:
            return Asked(answer.status, _object(answer.read(_MOST_BYTES)), "")
    except urllib.error.HTTPError as error:
        values = _object(_beginning(error, 65_536))
        return Asked(error.code, values, str(values.get("message", error.reason)))
    except _NO_ANSWER as error:
        return Asked(0, {}, f"{error}" or type(error).__name__)


def _beginning(error: urllib.error.HTTPError, most: int) -> bytes:
    try:
        return error.read(most)
    except _NO_ANSWER:
        return b""


def _require_admitted(url: str, error: urllib.error.HTTPError) -> None:
    if error.code == HTTPStatus.UNAUTHORIZED:
        said = _beginning(error, 300).decode("utf-8", "replace").strip()
        raise NotAdmitted(f"{url} answers {error.code}: {said}") from None


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
