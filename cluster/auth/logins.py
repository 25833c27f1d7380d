"""Login tokens: what `devpi login` gets for a password (pure).

A login token is an HMAC under the cluster's secret, so any node can make and check one while
the primary is away, also after a restart, and nothing is kept about it. It is bound to the
user's password and to the user's birth: another password, or another user of that name, ends it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from hashlib import sha256
from typing import Final

from cluster.errors import AuthenticationRequired
from cluster.model import User

LOGIN_SECONDS: Final = 36_000
_PREFIX = "pymlogin."
# Nodes' clocks may be apart, and another node may have made the token.
_SKEW_SECONDS = 300


def make_login(secret: bytes, user: User, now: float) -> str:
    """A token for a user whose password was right at `now`, in seconds since 1970."""
    name = base64.urlsafe_b64encode(user.name.encode()).decode().rstrip("=")
    message = f"{_PREFIX}{name}.{int(now)}"
    return f"{message}.{_mac(secret, message, user)}"


def login_user(text: str) -> str | None:
    """The user that a login token claims to be for; None for a text that is no login token."""
    if not text.startswith(_PREFIX):
        return None
    try:
        name = text.split(".")[1]
        return base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None


def verify_login(secret: bytes, text: str, user: User | None, now: float) -> str:
    """The name of the user that a login token stands for.

    `user` is who has the name that `login_user` found, None if nobody. Raises
    AuthenticationRequired when the token is wrong, too old, or from before a password change.
    """
    message, _, mac = text.rpartition(".")
    owner = user or User("")
    expected = _mac(secret, message, owner)
    is_genuine = hmac.compare_digest(mac.encode("utf-8", "replace"), expected.encode())
    if user is None or login_user(text) != user.name or not is_genuine:
        raise AuthenticationRequired("the login token is not valid (any more): log in again")
    issued = int(message.rpartition(".")[2])
    if not -_SKEW_SECONDS <= now - issued <= LOGIN_SECONDS:
        raise AuthenticationRequired("the login token has expired: log in again")
    return user.name


def _mac(secret: bytes, message: str, user: User) -> str:
    binding = sha256(f"{user.password or ''}\n{user.options.get('created', '')}".encode())
    # The purpose keeps what is made for one use from serving another.
    text = f"pymirror login\n{message}\n{binding.hexdigest()}".encode("utf-8", "replace")
    digest = hmac.new(secret, text, sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
