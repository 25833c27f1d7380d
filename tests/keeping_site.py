"""A store with its account, on a log with hosted indexes and a mirror; time is the test's."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.task import Clock

from cluster.errors import UpstreamError
from cluster.files import hosted, ledger, scrub
from cluster.files.keeping import FileKeeping
from cluster.files.store import FileStore
from cluster.log import changelog
from cluster.log.changes import Change, Kind
from cluster.model import DistributionFile
from cluster.state import schema
from cluster.state.database import Database, open_engine
from cluster.threads import Inline
from tests.fakes import NOW, START, as_clock, position
from tests.indexed import DEV, OTHER, PYPI, Node, index_set


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def uploaded(name: str, data: bytes, index: str = DEV) -> Change:
    """An upload's entry; its bytes are nowhere because of that."""
    file = DistributionFile(f"{name}-1.0.tar.gz", "1.0", {"sha256": sha256(data)}, len(data))
    payload = {"index": index, "project": name, "name": name, "file": file.to_json()}
    return Change(Kind.FILE_ADDED, payload)


async def nobody(name: str, size: int) -> None:
    """No other node has anything."""
    raise UpstreamError("nobody has it")


@define(eq=False)
class Keeping:
    """The parts under test; `kept` are the indexes of which all files are kept."""

    node: Node
    store: FileStore
    local: Database
    clock: Clock
    keeping: FileKeeping
    kept: Callable[[str], bool]
    can_return: bool = False
    asked: list[str] = field(factory=list)
    again: Callable[[str, int], Awaitable[None]] = nobody

    def now(self) -> float:
        return NOW + self.clock.seconds()

    async def refetch(self, name: str, size: int) -> None:
        self.asked.append(name)
        await self.again(name, size)

    def start(self) -> None:
        self.keeping.start(self.kept, lambda: self.can_return, self.refetch, lambda name: None)

    async def add(self, data: bytes, *, fetched: bool = True) -> str:
        """Keep bytes as a fetch, or an upload, does."""
        sink = self.store.new_sink()
        sink.write(data)
        return (await self.store.add(sink, fetched=fetched)).sha256

    def has(self, name: str) -> bool:
        return self.store.path(name).exists()

    def pass_time(self, seconds: float, step: float = 5.0) -> None:
        """Let time go by in steps, as it does."""
        for _ in range(int(seconds / step)):
            self.clock.advance(step)


@asynccontextmanager
async def site(
    folder: Path, *, cache_bytes: int | None = None, scrub_rate: int = 0, kept: Any = True
) -> AsyncIterator[Keeping]:
    """Everything on one thread; nothing has begun yet."""
    log = open_engine(folder / "log.sqlite", changelog.metadata, schema.metadata)
    node = Node(folder, Database(log, Inline(), Inline()), position())
    node.log(START, index_set(DEV), index_set(PYPI, "mirror"), index_set(OTHER))
    engine = open_engine(folder / "local.sqlite", ledger.metadata, hosted.metadata, scrub.metadata)
    local, clock = Database(engine, Inline(), Inline()), Clock()
    store = FileStore(folder / "files", Inline())
    await store.open()
    keeping = FileKeeping.make(
        (node.database, local), store, node.at, as_clock(clock),
        lambda: NOW + clock.seconds(), cache_bytes, scrub_rate,
    )  # fmt: skip
    keeps = kept if callable(kept) else lambda _: bool(kept)
    yield Keeping(node, store, local, clock, keeping, keeps)
    await keeping.stop()
    engine.dispose()
    log.dispose()
