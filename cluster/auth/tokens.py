"""API tokens: random secrets with limits, for CI and other machines (pure).

The text ``pym_<id>_<secret>`` is shown once. The log and the state hold the SHA-256 of the
secret, whose 256 random bits make guessing and reversing hopeless; so a token works on every
node that has applied `token.added`, and ends where `token.removed` has been applied.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from attrs import field, frozen
from attrs.validators import matches_re, optional

from cluster.errors import InvalidRequest
from cluster.model import SHA256
from cluster.names import index_name, project_name

READ: Final = "read"
UPLOAD: Final = "upload"
REPLICATE: Final = "replicate"
ACTIONS: Final = frozenset({READ, UPLOAD, REPLICATE})
TOKEN_USER: Final = "__token__"  # noqa: S105
"""The user name that stands for "the password is an API token", as everywhere."""

DEFAULT_DAYS: Final = 365
MOST_DAYS: Final = 3650
MOST_DESCRIPTION: Final = 200
_MOST_NAMES = 100
_DAY_SECONDS = 86_400
_TEXT = re.compile(r"pym_([0-9a-f]{16})_([A-Za-z0-9_-]{43})", re.ASCII)
_ID = re.compile(r"[0-9a-f]{16}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_NOBODY = "0" * 64
_KEYS = frozenset({"user", "actions", "indexes", "projects", "expires_days", "description"})


def _known(_: object, __: object, value: frozenset[str]) -> None:
    if not value or not value <= ACTIONS:
        raise InvalidRequest(f"actions is a list of one or more of {', '.join(sorted(ACTIONS))}")


@frozen
class TokenLimits:
    """What a token may be used for, within what its user may do.

    `indexes` (``user/index``) and `projects` (normalized names) are all there are when empty.
    """

    actions: frozenset[str] = field(validator=_known)
    indexes: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()

    def allows(self, action: str, index: str, project: str | None = None) -> bool:
        """Whether these limits let an action through.

        `project` is None for what concerns an index as a whole: too much for a token that is
        for some of its projects.
        """
        return (
            action in self.actions
            and (not self.indexes or index in self.indexes)
            and (not self.projects or project in self.projects)
        )


@frozen
class ApiToken:
    """A token as the log and the state know it: `sha256` is that of its secret, in hex.

    `expires` (None: never) and `created` are RFC 3339 in UTC, to the second.
    """

    id: str = field(validator=matches_re(_ID))
    user: str
    sha256: str = field(validator=matches_re(SHA256))
    limits: TokenLimits
    expires: str | None = field(validator=optional(matches_re(_TIME)))
    description: str
    created: str

    def expired(self, now: float) -> bool:
        """Whether its time is over at `now`, in seconds since 1970."""
        return self.expires is not None and now >= from_rfc3339(self.expires)

    def to_payload(self) -> dict[str, Any]:
        """The payload of `token.added`."""
        return {"token": self.id, **self.to_json(), "sha256": self.sha256}

    def to_json(self) -> dict[str, Any]:
        """What its owner may see: everything but the id and the digest."""
        return {
            "user": self.user,
            "actions": sorted(self.limits.actions),
            "indexes": list(self.limits.indexes),
            "projects": list(self.limits.projects),
            "expires": self.expires,
            "description": self.description,
            "created": self.created,
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> ApiToken:
        """The reverse of `to_payload`; keys that others added to it are ignored."""
        limits = TokenLimits(
            frozenset(payload["actions"]), tuple(payload["indexes"]), tuple(payload["projects"])
        )
        return cls(
            payload["token"], payload["user"], payload["sha256"], limits, payload["expires"],
            payload["description"], payload["created"],
        )  # fmt: skip


@frozen
class TokenRequest:
    """What somebody asks for; `user` None means a token for oneself."""

    limits: TokenLimits
    user: str | None
    seconds: int
    description: str


def rfc3339(now: float) -> str:
    """A moment in seconds since 1970, to the second."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_rfc3339(text: str) -> float:
    """The reverse of `rfc3339`."""
    return datetime.fromisoformat(text).timestamp()


def parse(text: str) -> tuple[str, str] | None:
    """The id and the secret out of a token's text; None for any other text."""
    match = _TEXT.fullmatch(text)
    return None if match is None else (match[1], match[2])


def mint(
    user: str, limits: TokenLimits, description: str, seconds: int, now: float
) -> tuple[str, ApiToken]:
    """A new token that ends after `seconds`: the text to show once, and what is recorded."""
    name, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    token = ApiToken(
        name, user, _digest(secret), limits, rfc3339(now + seconds), description, rfc3339(now)
    )
    return f"pym_{name}_{secret}", token


def verify(token: ApiToken | None, secret: str, now: float) -> bool:
    """Whether a secret is that of a token whose time is not over; for None always False."""
    matches = hmac.compare_digest(_digest(secret), token.sha256 if token else _NOBODY)
    return matches and token is not None and not token.expired(now)


def from_request(body: object) -> TokenRequest:
    """Check what a client wants a token to be; raises InvalidRequest.

    Keys: ``actions``, and optionally ``indexes``, ``projects``, ``expires_days`` (1 to
    MOST_DAYS), ``description`` and ``user``.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("the body is not a JSON object")
    if unknown := sorted(set(body) - _KEYS):
        raise InvalidRequest(f"a token has no {', '.join(map(repr, unknown))}")
    user = body.get("user")
    if user is not None and not isinstance(user, str):
        raise InvalidRequest("user is not text")
    return TokenRequest(
        limits(body.get("actions"), body.get("indexes", []), body.get("projects", [])),
        user,
        _days(body.get("expires_days", DEFAULT_DAYS)) * _DAY_SECONDS,
        _description(body.get("description", "")),
    )


def limits(actions: object, indexes: object, projects: object) -> TokenLimits:
    """Limits out of JSON or TOML values; raises InvalidRequest."""
    return TokenLimits(
        frozenset(_texts("actions", actions)),
        tuple(_index(name) for name in _texts("indexes", indexes)),
        tuple(sorted({project_name(name) for name in _texts("projects", projects)})),
    )


def _index(name: str) -> str:
    user, _, index = name.partition("/")
    return index_name(user, index)


def _texts(what: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InvalidRequest(f"{what} is not a list of text")
    if len(value) > _MOST_NAMES:
        raise InvalidRequest(f"{what} has more than {_MOST_NAMES} entries")
    return value


def _days(value: object) -> int:
    if type(value) is not int or not 1 <= value <= MOST_DAYS:
        raise InvalidRequest(f"expires_days is not a whole number from 1 to {MOST_DAYS}")
    return value


def _description(value: object) -> str:
    if not isinstance(value, str) or len(value) > MOST_DESCRIPTION or not f"{value} ".isprintable():
        raise InvalidRequest(f"description is not a line of at most {MOST_DESCRIPTION} characters")
    return value


def _digest(secret: str) -> str:
    return sha256(secret.encode("utf-8", "replace")).hexdigest()
