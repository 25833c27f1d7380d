"""The values of index options: each function checks one kind of value (pure; devpi-api §4).

All take the option's name and what was sent for it, JSON or the text of ``devpi index key=value``,
and raise InvalidRequest. Messages never repeat a URL or a secret: they end up in logs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from reprlib import repr as shortened
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from cluster.errors import InvalidRequest
from cluster.names import IndexName, index_name, normalize

Check = Callable[[str, Any], Any]

_TRUTH: Final = {"true": True, "yes": True, "false": False, "no": False}
_ACL_WORDS: Final = {":anonymous:", ":authenticated:"}
_MAX_NUMBER: Final = 2**53  # beyond it JSON readers disagree about integers
_MAX_LEVELS: Final = 64
_URL: Final = re.compile(r"https?://[!-\[\]-~]+")  # printable ASCII without blanks and "\"


def truth(key: str, value: Any) -> bool:
    """A bool, or true/false/yes/no in any case."""
    known = _TRUTH.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(known, bool):
        raise InvalidRequest(f"{key} must be true or false, not {shortened(value)}")
    return known


def texts(key: str, value: Any) -> list[str]:
    """A list of texts, or one text with commas; blanks are dropped."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise InvalidRequest(f"{key} must be a list or a text with commas, not {shortened(value)}")
    return [part.strip() for part in parts if part.strip()]


def bases(key: str, value: Any) -> list[IndexName]:
    """Names of indexes; the message names every one that cannot be, joined by a comma."""
    found, errors = list[IndexName](), list[str]()
    for base in texts(key, value):
        user, slash, index = base.strip("/").partition("/")
        try:
            if not slash or "/" in index:
                raise InvalidRequest(f"invalid base index spec: {base!r}")
            found.append(index_name(user, index))
        except InvalidRequest as error:
            errors.append(str(error))
    if errors:
        raise InvalidRequest(", ".join(errors))
    return found


def acl(key: str, value: Any) -> list[str]:
    """Users, ``:groups`` and the two special words, which are kept in upper case."""
    return [n.upper() if n.lower() in _ACL_WORDS else n for n in texts(key, value)]


def whitelist(key: str, value: Any) -> list[str]:
    """Project names, normalized, and ``*``."""
    return [name if name == "*" else normalize(name) for name in texts(key, value)]


def inheritance(key: str, value: Any) -> str:
    """How the whitelists of bases are combined."""
    if value not in ("intersection", "union"):
        raise InvalidRequest(f"{key} must be 'intersection' or 'union', not {shortened(value)}")
    return str(value)


MOST_SYNC_REPLICAS: Final = 100


def replicas(key: str, value: Any) -> int:
    """How many replicas must have a write before it is acknowledged."""
    try:
        number = seconds(key, value)
    except InvalidRequest:
        number = -1
    if not 0 <= number <= MOST_SYNC_REPLICAS:
        raise InvalidRequest(f"{key} must be a number up to {MOST_SYNC_REPLICAS}")
    return number


def seconds(key: str, value: Any) -> int:
    """A number of seconds, as a number or a text."""
    number = value
    if isinstance(value, str):
        try:
            number = int(value)
        except ValueError:
            number = None
    if type(number) is not int or not 0 <= number <= _MAX_NUMBER:
        raise InvalidRequest(f"{key} must be a number of seconds, not {shortened(value)}")
    return number


def json_value(key: str, value: Any) -> Any:
    """Any JSON value without floats (the log has none), of bounded depth."""
    level = [value]
    for _ in range(_MAX_LEVELS):
        if any(isinstance(one, float) for one in level):
            raise InvalidRequest(f"{key} holds a number with a fraction: write it as text")
        if any(type(one) is int and abs(one) > 2**63 - 1 for one in level):
            raise InvalidRequest(f"{key} holds a number that is too large: write it as text")
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return value
    raise InvalidRequest(f"{key} is nested deeper than {_MAX_LEVELS} levels")


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def secret(key: str, value: Any) -> str:
    """A secret: any text that is not empty."""
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{key} must be a text that is not empty")
    return value


def url(key: str, value: Any) -> tuple[str, str | None]:
    """A URL without the ``user:password@`` that it may carry, and that, percent-decoded."""
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        raise InvalidRequest(f"{key} must start with http:// or https://")
    try:
        parts = urlsplit(value)
        whole = _URL.fullmatch(value) and parts.hostname and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise InvalidRequest(f"{key} must be a URL with a host, other characters percent-encoded")
    userinfo, at, _ = parts.netloc.rpartition("@")
    if not at:
        return value, None
    start = len(parts.scheme) + len("://")
    clean = value[:start] + value[start + len(userinfo) + len(at) :]
    return clean, _credentials(key, userinfo) if userinfo else None


def _credentials(key: str, userinfo: str) -> str:
    user, _, password = userinfo.partition(":")
    try:
        user, password = unquote(user, errors="strict"), unquote(password, errors="strict")
    except UnicodeDecodeError:
        user = ":"
    if ":" in user or not (user + password).isprintable():
        # RFC 7617 §2: neither can be said in Basic credentials.
        raise InvalidRequest(f"{key} carries a user or password that cannot be sent")
    return f"{user}:{password}"


def template(*fields: str) -> Callable[[str, Any], tuple[str, str | None]]:
    """A check for URLs in which the given fields may stand in braces."""

    def check(key: str, value: Any) -> tuple[str, str | None]:
        clean, credentials = url(key, value)
        rest = clean
        for name in fields:
            rest = rest.replace(f"{{{name}}}", "")
        if "{" in rest or "}" in rest:
            names = " and ".join(f"{{{name}}}" for name in fields)
            raise InvalidRequest(f"{key} may hold {names} and no other braces")
        return clean, credentials

    return check


def web_url(key: str, value: Any) -> str:
    """The format of links to an upstream's pages; shown to everybody, so without a password."""
    clean, credentials = template("name")(key, value)
    if credentials is not None:
        raise InvalidRequest(f"{key} must not hold a user or password: everybody can see it")
    return clean
