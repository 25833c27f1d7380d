"""The public keys of identity token issuers, fetched as OpenID Connect Discovery 1.0 says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
import orjson
from attrs import define, field, frozen
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers

from cluster.agent import Requester
from cluster.clock import Clock, bounded
from cluster.errors import UpstreamError
from cluster.singleflight import SingleFlight
from cluster.upstream.client import USER_AGENT, drop, explain, read_body

ALGORITHMS: Final = ("RS256", "ES256")
FRESH_SECONDS: Final = 3_600.0
STALE_SECONDS: Final = 86_400.0
RETRY_SECONDS: Final = 30.0
_ANSWER_SECONDS = 10.0
_ANSWER_BYTES = 256 << 10
_MOST_KEYS = 100
_LEAST_RSA_BITS = 2048

PublicKey = RSAPublicKey | EllipticCurvePublicKey
Keys = Mapping[tuple[str, str], PublicKey]
"""By key id and algorithm: a key is never used with an algorithm that it was not made for."""


@frozen
class _Known:
    keys: Keys
    fetched_at: float


@define
class IssuerKeys:
    """Fetches and remembers keys. Ask only for issuers that the operator trusts.

    Keys are asked for again after FRESH_SECONDS, or when one is missing, at most every
    RETRY_SECONDS; while an issuer is away they count for STALE_SECONDS.
    """

    _agent: Requester
    _clock: Clock
    _known: dict[str, _Known] = field(factory=dict)
    _tried: dict[str, float] = field(factory=dict)
    _flight: SingleFlight[str, None] = field(factory=SingleFlight)

    async def find(self, issuer: str, kid: str, algorithm: str) -> PublicKey | None:
        """An issuer's key, None if it has no such; raises UpstreamError when it cannot be asked."""
        wanted, now = (kid, algorithm), self._clock.seconds()
        known = self._known.get(issuer)
        is_fresh = known is not None and now - known.fetched_at < FRESH_SECONDS
        is_due = now - self._tried.get(issuer, -RETRY_SECONDS) >= RETRY_SECONDS
        if (not is_fresh or known is None or wanted not in known.keys) and is_due:
            await self._flight.run(issuer, lambda: self._refresh(issuer))
        known = self._known.get(issuer)
        if known is None or now - known.fetched_at >= STALE_SECONDS:
            raise UpstreamError(f"the keys of {issuer} cannot be had now: try again in a minute")
        return known.keys.get(wanted)

    async def _refresh(self, issuer: str) -> None:
        work = Deferred.fromCoroutine(self._fetch(issuer))
        try:
            keys = await bounded(work, _ANSWER_SECONDS, self._clock)
        except Exception as error:
            self._tried[issuer] = self._clock.seconds()
            if issuer not in self._known:
                raise UpstreamError(f"{issuer} gives no keys: {explain(error)}") from error
            return
        self._tried[issuer] = self._clock.seconds()
        self._known[issuer] = _Known(keys, self._clock.seconds())

    async def _fetch(self, issuer: str) -> Keys:
        about = await self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        location = about.get("jwks_uri")
        if about.get("issuer") != issuer or not isinstance(location, str):
            raise UpstreamError("its configuration is that of another issuer, or has no keys")
        if urlsplit(location).scheme not in ("https", urlsplit(issuer).scheme):
            raise UpstreamError("its keys are not on https")
        return read_keys(await self._get(location))

    async def _get(self, url: str) -> dict[str, Any]:
        headers = Headers({"User-Agent": [USER_AGENT], "Accept": ["application/json"]})
        response = await self._agent.request(b"GET", url.encode("ascii"), headers)
        if response.code != 200:
            drop(response)
            raise UpstreamError(f"{url} answers {response.code}")
        document = orjson.loads(await read_body(response, _ANSWER_BYTES))
        if not isinstance(document, dict):
            raise UpstreamError(f"{url} is not a JSON object")
        return document


def read_keys(document: Mapping[str, Any]) -> Keys:
    """The keys of a JWK set (RFC 7517) that can be used here; others are passed over."""
    listed = document.get("keys")
    if not isinstance(listed, list):
        raise UpstreamError("a key set without keys")
    found: dict[tuple[str, str], PublicKey] = {}
    for one in listed[:_MOST_KEYS]:
        if isinstance(one, dict) and isinstance(one.get("kid"), str) and _signs(one):
            algorithm, key = _key(one)
            if key is not None and one.get("alg") in (None, algorithm):
                found[one["kid"], algorithm] = key
    return found


def _signs(jwk: Mapping[str, Any]) -> bool:
    return jwk.get("use") in (None, "sig")


def _key(jwk: dict[str, Any]) -> tuple[str, PublicKey | None]:
    try:
        if jwk.get("kty") == "RSA":
            rsa = RSAAlgorithm.from_jwk(jwk)
            good = isinstance(rsa, RSAPublicKey) and rsa.key_size >= _LEAST_RSA_BITS
            return "RS256", rsa if isinstance(rsa, RSAPublicKey) and good else None
        if jwk.get("kty") == "EC" and jwk.get("crv") == "P-256":
            curve = ECAlgorithm.from_jwk(jwk)
            return "ES256", curve if isinstance(curve, EllipticCurvePublicKey) else None
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        pass
    return "", None
