"""What a node does with its files beside serving them: account, bound, scrub."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define

from cluster.clock import Clock
from cluster.files.cachebound import CacheBound
from cluster.files.hosted import HostedFiles
from cluster.files.ledger import FileLedger
from cluster.files.scrub import Refetch, Scrub
from cluster.files.store import FileStore
from cluster.state.database import Database
from cluster.state.position import Position


@define(eq=False)
class FileKeeping:
    """The parts that keep files, put together; `start` before files are served."""

    ledger: FileLedger
    hosted: HostedFiles
    bound: CacheBound
    scrub: Scrub
    _store: FileStore

    @classmethod
    def make(
        cls,
        databases: tuple[Database, Database],
        store: FileStore,
        position: Position,
        clock: Clock,
        now: Callable[[], float],
        cache_bytes: int | None,
        scrub_rate: int,
    ) -> FileKeeping:
        """`databases` are that of the log and the node's own; sizes in bytes (a second)."""
        state, local = databases
        ledger = FileLedger(local, now, clock)
        hosted = HostedFiles(state, local, position, store, clock)
        return cls(
            ledger, hosted, CacheBound(cache_bytes, store, ledger, hosted, clock),
            Scrub(scrub_rate, store, ledger, clock), store,
        )  # fmt: skip

    def start(
        self,
        keeps: Callable[[str], bool],
        can_return: Callable[[], bool],
        refetch: Refetch,
        on_damage: Callable[[str], None],
    ) -> None:
        """Begin. `keeps` tells of which indexes this node keeps all files, `can_return` whether
        others could give the rest again now; `on_damage` hears of each damaged file.
        """
        self._store.watchers.insert(0, self.ledger)
        self.hosted.keeps = keeps
        self.hosted.start()
        self.ledger.reconcile(self._store)
        self.bound.can_return = can_return
        self.bound.start()
        self.scrub.refetch, self.scrub.on_damage = refetch, on_damage
        self.scrub.start()

    async def stop(self) -> None:
        """End what runs, and write what was noted."""
        self.bound.stop()
        await self.scrub.stop()
        await self.hosted.stop()
        await self.ledger.stop()

    def document(self) -> dict[str, Any]:
        """The `cache` and `scrub` parts of the status."""
        return {"cache": self.bound.document(), "scrub": self.scrub.document()}
