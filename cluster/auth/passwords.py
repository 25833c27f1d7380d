"""Passwords: argon2id (RFC 9106) off the reactor, kept in node-only blobs, not in the log.

A blob is a text: an encoded argon2 hash, or ``devpi-sha256$<salt>$<hex>`` of a user who came
from a devpi-server of before 2018 (sha256 over salt and password), or LOCKED.
"""

from __future__ import annotations

import hmac
import re
import secrets
from hashlib import sha256
from typing import Final

from argon2 import PasswordHasher, Type, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError
from attrs import define, field

from cluster.clock import Clock
from cluster.threads import Runner

_REMEMBER_SECONDS = 300.0
_REMEMBER_MOST = 1_000
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=Type.ID)
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_DEVPI_SHA256: Final = "devpi-sha256"

LOCKED: Final = "!"
"""In place of a hash: no password lets this user in."""


def hash_password(password: str) -> str:
    """The hash to keep of a password. Takes about 0.1 s: never call it on the reactor."""
    return _HASHER.hash(password)


def from_devpi(pwhash: str | None, pwsalt: str | None) -> str:
    """What to keep of a password hash out of devpi; raises ValueError for what is none.

    devpi keeps no hash for users whom one of its plugins checks (LDAP): they come LOCKED.
    """
    if not pwhash:
        return LOCKED
    if pwsalt:
        if not _HEX.fullmatch(pwhash) or "$" in pwsalt:
            raise ValueError("this is not a salted sha256 hash")
        return f"{_DEVPI_SHA256}${pwsalt}${pwhash}"
    try:
        extract_parameters(pwhash)
    except InvalidHashError:
        raise ValueError("this is not an argon2 hash") from None
    return pwhash


def needs_upgrade(stored: str) -> bool:
    """Whether a hash is weaker than what `hash_password` makes: replace it at the next login."""
    if stored.startswith(_DEVPI_SHA256):
        return True
    try:
        has = extract_parameters(stored)
    except InvalidHashError:
        return False
    return (
        has.type != Type.ID
        or has.memory_cost < _HASHER.memory_cost
        or has.time_cost < _HASHER.time_cost
    )


def matches(stored: str, password: str) -> bool:
    """Whether a password is the one whose hash is stored. Slow: never call it on the reactor."""
    if stored.startswith(_DEVPI_SHA256):
        _, salt, digest = stored.split("$")
        return hmac.compare_digest(sha256(f"{salt}{password}".encode()).hexdigest(), digest)
    try:
        return _HASHER.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False


@define
class PasswordChecker:
    """Checks passwords in threads and remembers successes for five minutes.

    What is remembered is a keyed digest under a key that lives only in this process, so
    neither a password nor its plain digest stays in memory.
    """

    _runner: Runner
    _clock: Clock
    _key: bytes = field(factory=lambda: secrets.token_bytes(32))
    _good: dict[bytes, float] = field(factory=dict)

    async def check(self, stored: str, password: str) -> bool:
        """Whether a password is the one whose hash is stored; see also `needs_upgrade`."""
        mark = hmac.new(self._key, f"{stored}\n{password}".encode(), sha256).digest()
        if self._good.get(mark, 0.0) > self._clock.seconds():
            return True
        matched = await self._runner.run(matches, stored, password)
        if matched:
            if len(self._good) >= _REMEMBER_MOST:
                self._good.clear()
            self._good[mark] = self._clock.seconds() + _REMEMBER_SECONDS
        return matched
