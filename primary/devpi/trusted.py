"""Trusted publishing over HTTP: PEP 807 (draft), and the older paths that uv and CI actions use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson
from attrs import define
from klein import Klein
from twisted.logger import Logger

from cluster.auth.oidc import IdentityRefused, Publisher, TrustedPublishers
from cluster.auth.tokens import MOST_DESCRIPTION, mint
from cluster.errors import NotFound, PymirrorError
from cluster.web.outside import outside_url
from cluster.web.paths import AUDIENCE_PATH, DISCOVERY_PATH, MINT_PATH
from cluster.web.replies import Reply, json_reply
from cluster.web.request import NodeRequest
from cluster.web.routes import answering
from primary.devpi.tokens import token_changes
from primary.writer import Writer, Written

_PRIVATE = {"Cache-Control": "no-store"}


@define
class TrustedPublishing:
    """Gives a CI that proves who it is a short-lived upload token.

    `publishers` is None without --trusted-publishers; then all of this is 404. `now` is seconds
    since 1970. `outside_url` is that of the node, if configured.
    """

    _log = Logger()

    _publishers: TrustedPublishers | None
    _writer: Writer
    _now: Callable[[], float]
    _outside_url: str | None = None

    def audience(self) -> Reply:
        """For whom a CI's identity token must be made out."""
        return json_reply({"audience": self._required().listed.audience}, headers=_PRIVATE)

    def discover(self, request: NodeRequest) -> Reply:
        """Where the other two are, when somebody may publish to the upload path asked about."""
        listed = self._required().listed
        base = outside_url(request, self._outside_url)
        path = (request.args.get(b"discover") or [b""])[0].decode("utf-8", "replace")
        index = path.removeprefix(urlsplit(base).path).strip("/")
        if not any(index in publisher.limits.indexes for publisher in listed.publishers):
            raise NotFound(f"nobody publishes to {path!r} by trusted publishing")
        return json_reply(
            {
                "audience-endpoint": base + AUDIENCE_PATH,
                "token-mint-endpoint": base + MINT_PATH,
            },
            headers=_PRIVATE,
        )

    async def mint(self, request: NodeRequest) -> Reply:
        """Exchange an identity token for an upload token; errors are in the form of PEP 807."""
        publishers = self._required()
        try:
            publisher, claims = await publishers.identify(_identity_token(request))
            text, expires, written = await self._record(publisher, claims)
        except PymirrorError as error:
            self._log.info("trusted publishing was refused: {reason}", reason=str(error))
            return _refusal(error)
        self._log.info(
            "minted a token for {publisher} ({subject!r})",
            publisher=publisher.name, subject=str(claims["sub"])[:MOST_DESCRIPTION],
        )  # fmt: skip
        return json_reply(
            {"success": True, "token": text, "expires": expires},
            headers={**_PRIVATE, **written.headers},
        )

    async def _record(
        self, publisher: Publisher, claims: Mapping[str, Any]
    ) -> tuple[str, int, Written]:
        now = self._now()
        subject = "".join(c for c in str(claims["sub"]) if c.isprintable())
        description = f"trusted publisher {publisher.name}: {subject}"[:MOST_DESCRIPTION]
        text, token = mint(publisher.user, publisher.limits, description, publisher.seconds, now)
        actor = f"+trusted/{publisher.name}"
        written = await self._writer.write(actor, lambda c: token_changes(c, token, now))
        return text, int(now) + publisher.seconds, written

    def _required(self) -> TrustedPublishers:
        if self._publishers is None:
            raise NotFound("trusted publishing is not switched on here")
        return self._publishers


def _identity_token(request: NodeRequest) -> str:
    try:
        body = orjson.loads(request.content.read())
    except orjson.JSONDecodeError:
        body = None
    token = body.get("token") if isinstance(body, dict) else None
    if not isinstance(token, str):
        raise IdentityRefused("invalid-payload", 'the body is not {"token": "<identity token>"}')
    return token


def _refusal(error: PymirrorError) -> Reply:
    code = error.code if isinstance(error, IdentityRefused) else "unavailable"
    status = error.status if error.status >= 500 else IdentityRefused.status
    document = {
        "message": "The identity token was not exchanged for an upload token.",
        "errors": [{"code": code, "description": str(error)}],
    }
    return json_reply(document, status, _PRIVATE)


def add_routes(app: Klein) -> None:
    """Register the endpoints; the resource is `trusted` of the application."""
    for path, methods, handler in (
        (AUDIENCE_PATH, ["GET", "HEAD"], _audience),
        (MINT_PATH, ["POST"], _mint),
        (DISCOVERY_PATH, ["GET", "HEAD"], _discover),
    ):
        app.route(path, methods=methods, strict_slashes=True)(answering(handler))


async def _audience(web: Any, request: NodeRequest) -> Reply:
    trusted: TrustedPublishing = web.trusted
    return trusted.audience()


async def _mint(web: Any, request: NodeRequest) -> Reply:
    trusted: TrustedPublishing = web.trusted
    return await trusted.mint(request)


async def _discover(web: Any, request: NodeRequest) -> Reply:
    trusted: TrustedPublishing = web.trusted
    return trusted.discover(request)
