"""What the core tests stand on: a log with a fixed key, databases in memory, waiting runners."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from attrs import define, field
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as TestClock

from cluster.clock import Clock
from cluster.log import changelog
from cluster.log.changes import Change, Entry, Kind, encode
from cluster.log.checkpoint import LogSigner
from cluster.log.epochs import Trust
from cluster.log.merkle import Frontier
from cluster.protocol import log_origin
from cluster.state import freshness, schema
from cluster.state.database import Database, open_engine
from cluster.state.position import Head, Position
from cluster.threads import Inline
from cluster.web.status import LogIdentity
from primary.writer import Writer

P = ParamSpec("P")
T = TypeVar("T")

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LOG = "3f0d8a52-6a1e-4a7e-9d0b-2f4c1b8e7a90"
KEY = base64.b64encode(PRIVATE.public_key().public_bytes_raw()).decode()
IDENTITY = LogIdentity(LOG, KEY)
TRUST = Trust(LOG, KEY, b"the secret of the tests' cluster")
SIGNER = LogSigner(log_origin(LOG), PRIVATE)
EPOCH = 1
NOW = 1_700_000_000.0
TIME = "2023-11-14T22:13:20.000000Z"
START = Change(Kind.EPOCH_STARTED, {"log": LOG, "key": KEY})


def utc() -> datetime:
    """The moment at which all tests happen."""
    return datetime.fromtimestamp(NOW, UTC)


def as_clock(clock: TestClock) -> Clock:
    """A test clock as our code sees clocks."""
    return cast(Clock, clock)


def user_set(name: str, **options: Any) -> Change:
    """The smallest change that can be told from others."""
    return Change(Kind.USER_SET, {"user": name, "options": options})


def entry(serial: int, change: Change, epoch: int = EPOCH) -> Entry:
    """A change at a place in the log."""
    return encode(change, serial=serial, epoch=epoch, time=TIME, actor="root")


def entries(changes: Sequence[Change], start: int = 1) -> list[Entry]:
    """Changes at consecutive places."""
    return [entry(serial, change) for serial, change in enumerate(changes, start=start)]


@contextmanager
def engine() -> Iterator[Engine]:
    """A database in memory with all tables; for one thread."""
    made = open_engine(
        Path(":memory:"), changelog.metadata, schema.metadata, freshness.metadata, durable=False
    )
    try:
        yield made
    finally:
        made.dispose()


@contextmanager
def database() -> Iterator[Database]:
    """A database in memory whose work is done at once."""
    with engine() as made:
        yield Database(made, Inline(), Inline())


def position(clock: Clock | None = None) -> Position:
    """The position of an empty log."""
    return Position(clock or as_clock(TestClock()), Head(0, 0, Frontier().root, None))


def writer(of: Database, at: Position | None = None) -> Writer:
    """A writer for an empty log."""
    return Writer(of, at or position(), EPOCH, Frontier(), now=utc)


@define
class Gate:
    """A runner that keeps each call waiting until `open` lets one through."""

    waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = field(factory=list)
    ran: int = 0

    async def run(self, f: Callable[P, T], *args: P.args, **kw: P.kwargs) -> T:
        """Wait to be let through, then call `f`."""
        done: Deferred[T] = Deferred()
        self.waiting.append((lambda: f(*args, **kw), done))
        return await done

    def open(self) -> None:
        """Let the call that waits longest through; its error is its caller's."""
        work, done = self.waiting.pop(0)
        self.ran += 1
        try:
            result = work()
        except Exception as error:
            done.errback(error)
        else:
            done.callback(result)

    def open_all(self) -> None:
        """Let all through that wait, and those that come because of it."""
        while self.waiting:
            self.open()
