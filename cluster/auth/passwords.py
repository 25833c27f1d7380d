"""Passwords: argon2id (RFC 9106) off the reactor, kept in node-only blobs, not in the log."""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError
from attrs import define, field

from cluster.clock import Clock
from cluster.threads import Runner

_REMEMBER_SECONDS = 300.0
_REMEMBER_MOST = 1_000
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=Type.ID)


def hash_password(password: str) -> str:
    """The hash to keep of a password. Takes about 0.1 s: never call it on the reactor."""
    return _HASHER.hash(password)


def _matches(stored: str, password: str) -> bool:
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
        """Whether a password is the one whose hash is stored."""
        mark = hmac.new(self._key, f"{stored}\n{password}".encode(), sha256).digest()
        if self._good.get(mark, 0.0) > self._clock.seconds():
            return True
        matched = await self._runner.run(_matches, stored, password)
        if matched:
            if len(self._good) >= _REMEMBER_MOST:
                self._good.clear()
            self._good[mark] = self._clock.seconds() + _REMEMBER_SECONDS
        return matched
