"""Questions to the primary: who it is, its log, a refresh, leave to upload."""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Callable, Coroutine, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import orjson
from attrs import define, evolve, field, frozen
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers

from cluster.agent import Requester, Response, WholeBody
from cluster.auth.nodes import NodeSecret
from cluster.clock import Clock, bounded
from cluster.errors import LogError, LoopDetected, UnknownFormat, UpstreamError
from cluster.log.epochs import Start
from cluster.log.merkle import Frontier
from cluster.names import IndexName
from cluster.protocol import (
    EPOCHS_PATH,
    IDENTITY_PATH,
    NODE_HEADER,
    POLL_TIMEOUT_SECONDS,
    PRIMARY_HEADER,
    REFRESH_PATH,
    REPLICA_HEADER,
    SERIAL_HEADER,
    STREAM_TYPE,
    TAIL_PAGE_LIMIT,
    TAIL_PATH,
    TAIL_TYPE,
    VIA_HEADER,
    identity_proof,
)
from cluster.upstream.client import USER_AGENT, explain, first, read_body
from cluster.upstream.ondemand import LIST_WAIT_SECONDS
from cluster.web.status import LogIdentity
from replica.following import (
    Diverged,
    NotAdmitted,
    NotPrimary,
    TooFarBehind,
    Unreachable,
    WrongLog,
)
from replica.pagestream import EncodedPage, PageStream
from replica.via import check_chain, nodes_of

T = TypeVar("T")

# pip waits 15 s for a page: a primary that hangs must leave time to go elsewhere.
_ANSWER_SECONDS = 10.0
_SMALL_BYTES = 64 << 10
# Less than that cannot be why a token was refused.
_CLOCK_SECONDS = 60.0
_EPOCHS_BYTES = 1 << 20
_MOST_CANDIDATES = 16
_ADVICE = {
    401: " (compare the secret files and the clocks, or join by pymirror node invite)",
    412: " (point --primary-url at the primary of our log, or start with an empty state folder)",
    426: " (upgrade this replica)",
}


@frozen
class Answer:
    """A whole answer of the primary."""

    status: int
    body: bytes
    response: Response

    @property
    def serial(self) -> int:
        """The primary's head, as every answer says it; 0 when it does not."""
        value = first(self.response, SERIAL_HEADER) or ""
        return int(value) if value.isdigit() and len(value) < 19 else 0

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; raises LogError."""
        try:
            value = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise LogError("the primary's answer is not a JSON object")
        return value


@define
class PrimaryClient:
    """Sends requests to the primary, as the node `uuid`.

    `urls` are where the primary may be; `url` is the one that is asked now. `agent`, if it is
    given, sends all but streams.
    """

    urls: list[str]
    _http: HTTPClient
    _clock: Clock
    _secret: NodeSecret
    _uuid: str
    _now: Callable[[], float]
    _page_limit: int = field(default=TAIL_PAGE_LIMIT)
    _agent: Requester | None = None
    url: str = field(init=False)
    chain: tuple[str, ...] = ()
    """The replicas (uuids) between us and the primary, as the last page said; nearest first."""
    _preferred: str | None = None

    def __attrs_post_init__(self) -> None:
        self.url = self.urls[0]

    def move_on(self, hint: str | None) -> None:
        """Ask another candidate next: the one that was named, else the one after this."""
        if hint and urlsplit(hint).scheme in ("http", "https"):
            hint = hint.rstrip("/")
            if hint not in self.urls:
                self.urls.append(hint)
                # Of those that were only named: what was configured stays.
                del self.urls[_MOST_CANDIDATES:-1]
            self.url, self._preferred = hint, None
        elif not self.take_preferred():
            at = self.urls.index(self.url) if self.url in self.urls else -1
            self.url = self.urls[(at + 1) % len(self.urls)]

    def prefer(self, url: str) -> None:
        """Ask this candidate from the next question for news on: the poll that waits may end."""
        self._preferred = url

    def at(self, url: str) -> PrimaryClient:
        """The same node's questions to another node, whose clock may be another one."""
        return evolve(self, urls=[url], secret=evolve(self._secret), chain=(), preferred=None)

    def take_preferred(self) -> bool:
        """Ask who was preferred from now on; whether there is anybody."""
        url, self._preferred = self._preferred, None
        self.url = url or self.url
        return url is not None

    @property
    def secret(self) -> bytes:
        """The secret that the nodes of the cluster share."""
        return self._secret.secret

    def headers(self, method: str = "", path: str = "") -> dict[str, str]:
        """What proves to the primary that we are a node; `send` binds it to the request if this
        node has a key of its own. For a request that is sent otherwise, say which it is.
        """
        return {NODE_HEADER: self._secret.token(self._uuid, method, path)}

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None,
        *, limit_bytes: int = _SMALL_BYTES, seconds: float = _ANSWER_SECONDS,
    ) -> Answer:  # fmt: skip
        """Send a request and read its whole, bounded answer; raises Unreachable, LogError."""
        return await self._in_time(self._ask(method, path, headers, body, limit_bytes), seconds)

    async def _in_time(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        try:
            return await bounded(Deferred.fromCoroutine(work), seconds, self._clock)
        except UpstreamError as error:
            raise LogError(f"{self.url}: {error}") from error
        except Exception as error:
            raise Unreachable(f"{self.url}: {explain(error)}") from error

    async def _ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, limit: int
    ) -> Answer:
        response = await self.send(method, path, headers, body)
        return Answer(response.code, await read_body(response, limit), response)

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: Any = None
    ) -> Response:
        """Send a request, whose body may be bytes or an IBodyProducer; the caller reads the
        response. Redirects are not followed: they would carry our credentials away.

        When the primary says 401 because our clocks are apart, it is asked again by its own;
        raises Unreachable when that is not possible, because the body is a stream.
        """
        offset = self._secret.offset_seconds
        response = await self._send(method, path, headers, body)
        if response.code != 401 or NODE_HEADER not in headers:
            return response
        self._learn_clock(response)
        # It may have been learned from another answer meanwhile.
        is_why = abs(self._secret.offset_seconds - offset) > _CLOCK_SECONDS
        if not is_why:
            return response
        await read_body(response, _SMALL_BYTES)
        if not (body is None or isinstance(body, bytes)):
            raise Unreachable(f"{self.url}: the clocks are apart; try again")
        return await self._send(method, path, headers, body)

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str], body: Any
    ) -> Response:
        bound = self.headers(method, path) if NODE_HEADER in headers else {}
        named = {"User-Agent": USER_AGENT, **headers, **bound}
        headers_sent = Headers({name: [value] for name, value in named.items()})
        url = self.url + path
        is_small = body is None or isinstance(body, bytes)
        if is_small and self._agent is not None and url.isascii():
            # treq's cookies, codings and rewriting of URLs would be a third of what a poll costs.
            whole = None if body is None else WholeBody(body)
            return await self._agent.request(method.encode(), url.encode(), headers_sent, whole)
        response: Response = await self._http.request(
            method, url, headers=headers_sent, data=body, allow_redirects=False, unbuffered=True
        )
        return response

    def _learn_clock(self, response: Response) -> None:
        # Tokens expire by the primary's clock; ours may be wrong by hours and still join.
        try:
            theirs = parsedate_to_datetime(first(response, "Date") or "").timestamp()
        except (ValueError, TypeError):
            return
        self._secret.offset_seconds = theirs - self._now()

    async def identity(self) -> LogIdentity:
        """Which log the primary owns, proven by the shared secret; raises NotAdmitted."""
        nonce = secrets.token_urlsafe(24)
        via = {VIA_HEADER: self._uuid}
        answer = await self.ask("GET", f"{IDENTITY_PATH}?nonce={nonce}", via)
        self.expect_ok(answer)
        said = answer.json()
        log, key, proof = (str(said.get(name, "")) for name in ("log", "key", "proof"))
        expected = identity_proof(self._secret.secret, nonce, log, key)
        if not hmac.compare_digest(proof.encode(), expected.encode()):
            raise NotAdmitted(f"{self.url} does not hold this cluster's secret")
        return LogIdentity(log, key)

    async def epochs(self) -> list[Start]:
        """How the epochs after the first began, as the primary says; unproven yet.

        Raises Unreachable, NotAdmitted, LogError.
        """
        answer = await self.ask("GET", EPOCHS_PATH, self.headers(), limit_bytes=_EPOCHS_BYTES)
        self.expect_ok(answer)
        listed = answer.json().get("epochs")
        if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
            raise LogError(f"{self.url} answers something that is not a list of epochs")
        return [Start.from_json(one) for one in listed]

    async def tail(
        self, log: str, at: Frontier, epoch: int, wait_seconds: float, report: bytes,
        claims: str = "", *, streams: bool = False,
    ) -> PageStream:  # fmt: skip
        """What comes of the log behind `at`: a page, or if the primary likes, with `streams`, all
        for a while; `claims` is what `replica.owners` says of our epoch.

        Raises Unreachable, NotAdmitted, Diverged, WrongLog, LogError.
        """
        root = base64.urlsafe_b64encode(at.root).decode()
        where = f"log={quote(log)}&from={at.size}&root={root}&epoch={epoch}{claims}"
        stream = "&stream=1" if streams else ""
        path = f"{TAIL_PATH}?{where}&wait={wait_seconds:g}{stream}"
        headers = {
            **self.headers(), "Accept-Encoding": "zstd", REPLICA_HEADER: report.decode(),
        }  # fmt: skip
        answer = await self._in_time(self._answer_or_stream(path, headers), POLL_TIMEOUT_SECONDS)
        if isinstance(answer, PageStream):
            self.chain = ()
            return answer
        self.expect_ok(answer)
        if first(answer.response, "Content-Type") != TAIL_TYPE:
            raise LogError(f"{self.url} answers something that is not a page of the log")
        chain = nodes_of(first(answer.response, VIA_HEADER))
        check_chain(chain, self._uuid)
        self.chain = chain
        # Where treq asks, it takes off gzip itself, and leaves an empty Content-Encoding behind.
        encoding = first(answer.response, "Content-Encoding") or None
        page = EncodedPage(answer.body, encoding, answer.serial)
        return PageStream.of_page(self.url, page, self._clock)

    async def _answer_or_stream(self, path: str, headers: Mapping[str, str]) -> Answer | PageStream:
        response = await self.send("GET", path, headers)
        if response.code != 200 or first(response, "Content-Type") != STREAM_TYPE:
            return Answer(response.code, await read_body(response, self._page_limit), response)
        pages = PageStream(self.url, self._page_limit, self._clock)
        pages.watch(POLL_TIMEOUT_SECONDS)
        response.deliverBody(pages)
        return pages

    def expect_ok(self, answer: Answer) -> None:
        """Raise what an answer other than 200 means."""
        if answer.status == 200:
            return
        said = answer.body[:300].decode("utf-8", "replace").strip()
        advice = _ADVICE.get(answer.status, "")
        text = f"{self.url} answers {answer.status}: {said}{advice}"
        if answer.status == 421:
            raise NotPrimary(text, first(answer.response, PRIMARY_HEADER))
        if answer.status in (429, 502, 503, 504):
            wait = first(answer.response, "Retry-After") or ""
            raise Unreachable(text, float(wait) if wait.isdigit() and len(wait) < 9 else 0.0)
        raise {
            401: NotAdmitted, 409: Diverged, 410: TooFarBehind, 412: WrongLog, 426: UnknownFormat,
            508: LoopDetected,
        }.get(answer.status, LogError)(text)  # fmt: skip

    async def refresh(self, index: IndexName, project: str) -> Answer:
        """Have the primary refresh a mirrored project (empty: the list); raises Unreachable."""
        body = orjson.dumps({"index": index, "project": project})
        seconds = _ANSWER_SECONDS if project else LIST_WAIT_SECONDS
        answer = await self.ask("POST", REFRESH_PATH, self.headers(), body, seconds=seconds)
        self.expect_ok(answer)
        return answer
