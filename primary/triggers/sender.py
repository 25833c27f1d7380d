"""One delivery: the request that a target is sent, and what its answer means.

Redirects are not followed: they could lead credentials to another host. Nothing that is raised
here holds a secret, a query or the receiver's words.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast
from urllib.parse import quote, urlsplit

import orjson
from attrs import define
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.web.client import Agent, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer  # type: ignore[attr-defined]

from cluster.agent import Requester, Response
from cluster.clock import Clock, bounded
from cluster.durable import SecretBlobs
from cluster.errors import UpstreamError
from cluster.threads import Runner
from cluster.upstream.client import USER_AGENT, explain, first, read_body
from primary.triggers.events import Event, Target, webhook_body, webhook_headers
from primary.triggers.jenkins import job_form, job_url, went_back_to_job
from primary.triggers.tables import Setting

SEND_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 5.0
_MAX_ANSWER_BYTES = 64 << 10
_URL_CHARACTERS = "".join(map(chr, range(33, 127)))
_CREDENTIALS = {Target.WEBHOOK: "webhook_credentials", Target.JENKINS: "trigger_credentials"}
# What Jenkins says of one job (not there, without our parameter), not of itself.
_NO_SUCH_JOB = frozenset({400, 404, 405})


@implementer(IBodyProducer)
class _Body:
    """A small body, written at once."""

    def __init__(self, data: bytes) -> None:
        self._data, self.length = data, len(data)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass


class Refused(UpstreamError):
    """The target will never take this event; it may take others."""


def make_sender_agent(reactor: Any) -> Requester:
    """Each request has a connection of its own: one that the receiver has closed meanwhile would
    look like a failed delivery. No redirect is followed."""
    return cast(Requester, Agent(reactor, connectTimeout=_CONNECT_SECONDS))


def shown_url(url: str) -> str:
    """A URL without what may be secret in it: user, password, query, fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@define
class Sender:
    """Sends events; `base_url` is where clients reach this node."""

    _agent: Requester
    _clock: Clock
    _blobs: SecretBlobs
    _threads: Runner
    base_url: Callable[[], str]

    async def send(self, target: Target, setting: Setting, event: Event) -> None:
        """Tell one target of one event; raises Refused, or UpstreamError to try again later."""
        secrets = await self._secrets(setting.secrets)
        url, headers, body = self._request(target, setting, event, secrets)
        if "@" in urlsplit(url).netloc:
            raise UpstreamError("credentials belong in the index's secret options, not in the URL")
        credentials = secrets.get(_CREDENTIALS[target])
        if credentials:
            pair = base64.b64encode(credentials.encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        response = await self._post(url, {**headers, "User-Agent": USER_AGENT}, body)
        code, location = response.code, first(response, "Location")
        await self._hear_out(response)
        _judge(target, url, code, location)

    def _request(
        self, target: Target, setting: Setting, event: Event, secrets: Mapping[str, str]
    ) -> tuple[str, dict[str, str], bytes]:
        if target is Target.JENKINS:
            headers, body = job_form(event, self.base_url())
            return job_url(setting.url, event), headers, body
        body = webhook_body(event)
        return setting.url, webhook_headers(event, body, secrets.get("webhook_secret")), body

    async def _secrets(self, blob: str | None) -> Mapping[str, str]:
        if blob is None:
            return {}
        try:
            secrets = orjson.loads(await self._threads.run(self._blobs.get, blob))
        except (OSError, orjson.JSONDecodeError):
            # Without them the receiver could not tell our request from anybody's.
            raise UpstreamError("the index's secrets are missing on this node") from None
        return {key: value for key, value in secrets.items() if isinstance(value, str)}

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Response:
        raw = Headers({name: [value] for name, value in headers.items()})
        address = quote(url, safe=_URL_CHARACTERS).encode("ascii")
        try:
            asking = self._agent.request(b"POST", address, raw, _Body(body))
            return await bounded(asking, SEND_SECONDS, self._clock)
        except (ConnectError, ConnectionClosed, DNSLookupError, ResponseFailed) as error:
            raise UpstreamError(explain(error)) from None
        except Exception as error:
            # Its own text may hold the URL, and that a token.
            raise UpstreamError(f"no answer: {type(error).__name__}") from None

    async def _hear_out(self, response: Response) -> None:
        """Let the receiver finish what nobody reads, if it is short and soon done."""
        reading = Deferred.fromCoroutine(read_body(response, _MAX_ANSWER_BYTES))
        with suppress(Exception):
            await bounded(reading, _ANSWER_SECONDS, self._clock)


def _judge(target: Target, url: str, code: int, location: str | None) -> None:
    if 200 <= code < 300:
        return
    if target is Target.JENKINS:
        if code in (302, 303) and location and went_back_to_job(url, location):
            return
        if code in _NO_SUCH_JOB:
            raise Refused(f"{shown_url(url)} answered {code}: not a job with our file parameter")
    raise UpstreamError(f"{shown_url(url)} answered {code}")


def node_url(outside_url: str | None, listen: Sequence[str]) -> str:
    """Where clients reach this node: as it was told, else its first TCP port on this machine."""
    if outside_url:
        return outside_url
    ports = [endpoint.split(":")[1] for endpoint in listen if endpoint.startswith("tcp:")]
    numbers = [port.removeprefix("port=") for port in ports]
    return f"http://localhost:{numbers[0] if numbers else 3141}"
