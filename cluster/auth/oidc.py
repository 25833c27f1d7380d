"""Trusted publishing: a CI's identity token shows who publishes; no secret is kept in the CI.

The operator lists publishers: an issuer, and claims that its tokens must carry. Only issuers of
that list are ever asked for keys, and only RS256 and ES256 with keys made for them count.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
from attrs import define, field, frozen

from cluster.auth.oidckeys import ALGORITHMS, IssuerKeys
from cluster.auth.tokens import TokenLimits, limits
from cluster.errors import InvalidRequest, PymirrorError

DEFAULT_AUDIENCE: Final = "pymirror"
LEAST_MINUTES: Final = 15
MOST_MINUTES: Final = 360
_LEEWAY_SECONDS = 60.0
_TOKEN_LENGTH = 16_384
_MOST_REMEMBERED = 10_000
_REQUIRED = ["exp", "iat", "iss", "aud", "sub"]
_KEYS = frozenset(
    {"name", "issuer", "audience", "claims", "user", "indexes", "projects", "token_minutes"}
)


class IdentityRefused(PymirrorError):
    """An identity token is not good for an upload token; `code` is for machines (PEP 807)."""

    status = 422

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@frozen
class Publisher:
    """Who may publish without a secret, and what the minted token may do.

    `claims` maps names of claims to what they must be; ``*`` stands for one or more characters
    other than ``/`` and ``:``, so that a pattern cannot run over into the next part of a name.
    """

    name: str
    issuer: str
    audience: str
    claims: Mapping[str, str]
    user: str
    limits: TokenLimits
    seconds: int

    def accepts(self, claims: Mapping[str, Any]) -> bool:
        """Whether verified claims are those of this publisher."""
        return _has_audience(claims["aud"], self.audience) and all(
            _matches(pattern, claims.get(name)) for name, pattern in self.claims.items()
        )


@frozen
class PublisherList:
    """The file of --trusted-publishers: what to ask CIs for, and whom to believe."""

    audience: str
    publishers: tuple[Publisher, ...]


def read_publishers(text: str) -> PublisherList:
    """Read the TOML of --trusted-publishers; raises InvalidRequest saying what is wrong in it."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"the list of trusted publishers is not TOML: {error}") from None
    audience = document.pop("audience", DEFAULT_AUDIENCE)
    entries = document.pop("publisher", [])
    if document or not isinstance(entries, list) or not isinstance(audience, str):
        raise InvalidRequest("a list of trusted publishers has audience and [[publisher]], no more")
    publishers = tuple(_publisher(entry, audience) for entry in entries)
    if len({publisher.name for publisher in publishers}) != len(publishers):
        raise InvalidRequest("two trusted publishers have the same name")
    return PublisherList(audience, publishers)


def _publisher(entry: Mapping[str, Any], audience: str) -> Publisher:
    name = _text(entry, "name", "?")
    if unknown := sorted(set(entry) - _KEYS):
        raise InvalidRequest(f"trusted publisher {name} has unknown keys: {', '.join(unknown)}")
    claims, minutes = entry.get("claims"), entry.get("token_minutes", LEAST_MINUTES)
    # An issuer such as a public CI signs for all its customers: only claims tell them apart.
    if not isinstance(claims, dict) or not claims or not _all_text(claims):
        raise InvalidRequest(f"trusted publisher {name} needs claims: a table of text")
    if type(minutes) is not int or not LEAST_MINUTES <= minutes <= MOST_MINUTES:
        raise InvalidRequest(f"token_minutes of {name} is not in {LEAST_MINUTES}-{MOST_MINUTES}")
    if not entry.get("indexes"):
        raise InvalidRequest(f"trusted publisher {name} needs indexes: a list of USER/INDEX")
    issuer = _text(entry, "issuer", name)
    if not is_trustworthy(issuer):
        raise InvalidRequest(f"issuer of {name} is not an https URL")
    return Publisher(
        name, issuer, str(entry.get("audience", audience)), claims, _text(entry, "user", name),
        limits(["upload"], entry["indexes"], entry.get("projects", [])), minutes * 60,
    )  # fmt: skip


def _text(entry: Mapping[str, Any], key: str, name: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"trusted publisher {name} has no {key}")
    return value


def _all_text(claims: Mapping[str, object]) -> bool:
    return all(isinstance(value, str) for value in claims.values())


def is_trustworthy(url: str) -> bool:
    """Whether what comes from a URL cannot be changed on the way: https, or this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and _local(host)))


def _local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _matches(pattern: str, value: object) -> bool:
    if isinstance(value, bool):
        value = str(value).lower()
    if not isinstance(value, str | int):
        return False
    parts = map(re.escape, pattern.split("*"))
    return re.fullmatch("[^/:]+".join(parts), str(value)) is not None


def _has_audience(given: object, wanted: str) -> bool:
    return given == wanted or (isinstance(given, list) and wanted in given)


@define
class TrustedPublishers:
    """Tells from an identity token which publisher sends it; `now` is seconds since 1970."""

    listed: PublisherList
    _keys: IssuerKeys
    _now: Callable[[], float]
    _seen: dict[str, float] = field(factory=dict)

    async def identify(self, token: str) -> tuple[Publisher, Mapping[str, Any]]:
        """The publisher whose identity token this is, and the token's verified claims.

        Raises IdentityRefused, or UpstreamError when the issuer's keys cannot be had.
        """
        algorithm, kid, issuer = _unverified(token)
        candidates = [p for p in self.listed.publishers if p.issuer == issuer]
        if not candidates:
            raise IdentityRefused("unknown-issuer", "no trusted publisher has this token's issuer")
        key = await self._keys.find(issuer, kid, algorithm)
        if key is None:
            raise IdentityRefused("invalid-token", "the issuer has no such key")
        audiences = {publisher.audience for publisher in candidates}
        claims = _verified(token, key, algorithm, issuer, audiences, self._now())
        for publisher in candidates:
            if publisher.accepts(claims):
                self._only_once(claims)
                return publisher, claims
        raise IdentityRefused("invalid-publisher", "no trusted publisher has this token's claims")

    def _only_once(self, claims: Mapping[str, Any]) -> None:
        now = self._now()
        mark = f"{claims['iss']}\n{claims.get('jti', '')}"
        if "jti" not in claims:
            return
        if mark in self._seen:
            raise IdentityRefused("reused-token", "this identity token was used already")
        if len(self._seen) >= _MOST_REMEMBERED:
            self._seen = {k: until for k, until in self._seen.items() if until > now}
        if len(self._seen) >= _MOST_REMEMBERED:
            raise IdentityRefused("busy", "too many identity tokens at once: try again later")
        self._seen[mark] = float(claims["exp"]) + _LEEWAY_SECONDS


def _unverified(token: str) -> tuple[str, str, str]:
    """Algorithm, key id and issuer that a token claims; only used to look up what to trust."""
    if len(token) > _TOKEN_LENGTH:
        raise IdentityRefused("invalid-token", "the identity token is too long")
    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise IdentityRefused("invalid-token", "this is not an identity token (a JWT)") from None
    algorithm, kid, issuer = header.get("alg"), header.get("kid"), claims.get("iss")
    if algorithm not in ALGORITHMS:
        raise IdentityRefused("invalid-token", f"tokens are signed by {' or '.join(ALGORITHMS)}")
    if not isinstance(kid, str) or not isinstance(issuer, str):
        raise IdentityRefused("invalid-token", "the identity token names no key or no issuer")
    return algorithm, kid, issuer


def _verified(
    token: str, key: Any, algorithm: str, issuer: str, audiences: set[str], now: float
) -> Mapping[str, Any]:
    # The library would take the time from the system; ours is an argument.
    options: Any = {
        "require": _REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False,
    }  # fmt: skip
    decode = partial(jwt.decode, token, key, algorithms=[algorithm], options=options)
    try:
        claims: dict[str, Any] = decode(audience=list(audiences), issuer=issuer)
        expires, issued = float(claims["exp"]), float(claims["iat"])
        begins = float(claims.get("nbf", issued))
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise IdentityRefused("invalid-token", f"the identity token is refused: {error}") from None
    if now >= expires + _LEEWAY_SECONDS:
        raise IdentityRefused("expired-token", "the identity token has expired")
    if now < max(issued, begins) - _LEEWAY_SECONDS:
        raise IdentityRefused("invalid-token", "the identity token is not valid yet")
    return claims
