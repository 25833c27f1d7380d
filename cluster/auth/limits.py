"""Password guessing is slowed down: per address, and per user from one address.

Nobody can lock another out: what is counted always includes where the guesses come from. A
success forgets the guesses at that user, not those that the address made at others.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import ceil
from typing import Final

from attrs import define, field

from cluster.clock import Clock
from cluster.errors import TooManyRequests

WINDOW_SECONDS: Final = 300.0
MOST_PER_USER: Final = 20
MOST_PER_ADDRESS: Final = 100
MOST_AT_ONCE: Final = 100
_MOST_KEYS = 10_000
_NAME_LENGTH = 100

UNKNOWN_USER: Final = (
    "$argon2id$v=19$m=19456,t=2,p=1$fJYYVVIpRz9P7K/WvYCFNQ"
    "$dcQcqbzGzme/Pi1WIJAAC0GNI85Yvu6uTpdY2fIJFK4"
)
"""Checked in place of the hash of a user who is not there: it takes as long, and never matches."""


@define
class _Window:
    """The moments of the last failures of each key; the least recently used keys are dropped."""

    _most: int
    _failures: OrderedDict[Hashable, list[float]] = field(factory=OrderedDict)

    def wait_seconds(self, key: Hashable, now: float) -> float:
        """How long until `key` may try again; 0 when it may now."""
        recent = [at for at in self._failures.get(key, ()) if at > now - WINDOW_SECONDS]
        return recent[0] + WINDOW_SECONDS - now if len(recent) >= self._most else 0.0

    def add(self, key: Hashable, now: float) -> None:
        """A failure."""
        failures = self._failures.setdefault(key, [])
        self._failures.move_to_end(key)
        failures.append(now)
        del failures[: -self._most]
        if len(self._failures) > _MOST_KEYS:
            self._failures.popitem(last=False)

    def forget(self, key: Hashable) -> None:
        """All is well with `key`."""
        self._failures.pop(key, None)


@define
class GuessLimits:
    """Counts wrong passwords in sliding windows of WINDOW_SECONDS, in bounded memory."""

    _clock: Clock
    _users: _Window = field(factory=lambda: _Window(MOST_PER_USER))
    _addresses: _Window = field(factory=lambda: _Window(MOST_PER_ADDRESS))
    _running: Counter[str] = field(factory=Counter)

    def before(self, user: str, address: str) -> None:
        """Raise TooManyRequests when this address has guessed too often; call first."""
        now, network = self._clock.seconds(), _network(address)
        wait = max(
            self._users.wait_seconds((user[:_NAME_LENGTH], network), now),
            self._addresses.wait_seconds(network, now),
        )
        if wait > 0:
            raise TooManyRequests("too many wrong passwords; try again later", ceil(wait))

    @contextmanager
    def attempt(self, user: str, address: str) -> Iterator[None]:
        """`before`, and hold one of the places that an address has for checks at one time.

        Else a thousand guesses sent at once would all be let in before the first has failed.
        """
        self.before(user, address)
        network = _network(address)
        if self._running[network] >= MOST_AT_ONCE:
            raise TooManyRequests("too many passwords to check at once", 1)
        self._running[network] += 1
        try:
            yield
        finally:
            self._running[network] -= 1
            if not self._running[network]:
                del self._running[network]

    def failed(self, user: str, address: str) -> None:
        """The password was wrong, or there is no such user."""
        now, network = self._clock.seconds(), _network(address)
        self._users.add((user[:_NAME_LENGTH], network), now)
        self._addresses.add(network, now)

    def succeeded(self, user: str, address: str) -> None:
        """The password was right: earlier slips at this user are forgotten."""
        self._users.forget((user[:_NAME_LENGTH], _network(address)))


@lru_cache(maxsize=4_096)
def _network(address: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 one: whoever has one of those has all of them."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:_NAME_LENGTH]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False))
