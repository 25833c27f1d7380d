"""Brings the files of hosted indexes here, and tells how far that is.

With ``--files lazy`` files come when a client asks for them: the replica can be in sync with the
log and still need others for bytes. With ``--files full``, or names of indexes, they come as soon
as an entry names them, and stay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from cluster.clock import Clock, Delayed
from cluster.errors import NotFound, PymirrorError
from cluster.files import hosted
from cluster.files.fetch import Fetcher
from cluster.files.hosted import HostedFiles
from cluster.files.sources import Source, Wanted
from cluster.upstream.health import iso

LAZY: Final = "lazy"
FULL: Final = "full"
MOST_AT_ONCE: Final = 8
MOST_BESIDE_CLIENTS: Final = 2
MOST_BYTES: Final = 256 << 20
"""Of files under way at a time; one that is larger goes alone."""
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 5.0, 3_600.0
_LOOK_SECONDS = 5.0
_MOST_ERRORS = 20


def keeper(files: str) -> Callable[[str], bool]:
    """Which indexes the option ``--files`` names: all, none, or those that match a pattern."""
    patterns = [p.strip() for p in files.split(",") if p.strip()]
    if patterns in ([], [LAZY]):
        return lambda index: False
    if patterns == [FULL]:
        return lambda index: True
    return lambda index: any(fnmatchcase(index, pattern) for pattern in patterns)


@define(eq=False)
class FileSync:
    """Fetches what is to be kept and is not here, oldest first, beside what clients wait for.

    `sources` tells who may have an uploaded file; `reachable` whether the primary answers. Each
    time the figures change, `progressed` is called.
    """

    _log = Logger()

    _hosted: HostedFiles
    _fetcher: Fetcher
    _sources: Callable[[str], Sequence[Source]]
    _reachable: Callable[[], bool]
    _clock: Clock
    _now: Callable[[], float]
    mode: str = LAZY
    progressed: Callable[[], None] = lambda: None
    fetched: int = 0
    fetched_bytes: int = 0
    errors: deque[dict[str, Any]] = field(factory=lambda: deque(maxlen=_MOST_ERRORS))
    _under_way: dict[str, int] = field(factory=dict)
    _tasks: set[Deferred[None]] = field(factory=set)
    _told: tuple[int, int | None] = (-1, None)
    _was_reachable: bool = False
    _looking: bool = False
    _again: bool = False
    _timer: Delayed | None = None
    _stopped: bool = False

    @property
    def in_sync(self) -> bool | None:
        """Whether no uploaded file is missing; None before the first look."""
        return None if self.missing is None else self.missing == 0

    @property
    def missing(self) -> int | None:
        """How many uploaded files are not here; None before the first look."""
        return self._hosted.missing

    @property
    def checked_serial(self) -> int:
        """The serial for which the figures hold."""
        return self._hosted.serial

    @property
    def files_position(self) -> int:
        """The greatest serial up to which all files that entries name are durably here."""
        return self._hosted.files_position

    def start(self) -> None:
        """Begin to watch, and to fetch what this node keeps."""
        self._hosted.listeners.append(self._changed)
        self._hosted.is_eager = self.mode != LAZY
        self._tick()

    async def stop(self) -> None:
        """Begin nothing more; what is under way ends with the fetcher."""
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        await self._fetcher.stop()
        await DeferredList(list(self._tasks))

    def document(self) -> dict[str, Any]:
        """The part of `in_sync` in the status that is about files."""
        return {
            "files": self.in_sync,
            "files_missing": self.missing,
            "files_checked_serial": self.checked_serial,
            "files_position": self.files_position,
            "files_mode": self.mode,
            "files_waiting": self._hosted.missing_kept,
            "files_under_way": len(self._under_way),
            "files_fetched": self.fetched,
            "files_fetched_bytes": self.fetched_bytes,
            "files_errors": list(self.errors),
        }

    def _tick(self) -> None:
        self._timer = self._clock.callLater(_LOOK_SECONDS, self._tick)
        self._look()

    def _changed(self) -> None:
        figures = (self.files_position, self.missing)
        if figures != self._told:
            self._told = figures
            self.progressed()
        self._look()

    def _look(self) -> None:
        if self._stopped or not self._hosted.missing_kept:
            return
        if self._looking:
            self._again = True
            return
        self._looking = True
        Deferred.fromCoroutine(self._fill()).addErrback(
            lambda failure: self._log.failure("fetching uploaded files failed", failure)
        ).addBoth(self._looked)

    def _looked(self, _: object) -> None:
        self._looking = False
        if self._again:
            self._again = False
            self._look()

    async def _fill(self) -> None:
        reachable = self._reachable()
        if reachable and not self._was_reachable:
            await self._hosted.local.write(hosted.try_all_again)
        self._was_reachable = reachable
        if len(self._under_way) >= self._room():
            return
        now, most = self._now(), 2 * MOST_AT_ONCE
        for row in await self._hosted.local.read(lambda c: hosted.wanted(c, now, most)):
            if self._stopped or len(self._under_way) >= self._room():
                return
            used = sum(self._under_way.values())
            if row.sha256 in self._under_way or (used and used + (row.size or 0) > MOST_BYTES):
                continue
            self._under_way[row.sha256] = row.size or 0
            task = Deferred.fromCoroutine(self._get(row))
            self._tasks.add(task)
            task.addErrback(
                lambda failure: self._log.failure("fetching an uploaded file failed", failure)
            )
            task.addBoth(self._ended, task)

    def _room(self) -> int:
        # What a client waits for goes first: its fetch shares the line with few of ours.
        for_clients = self._fetcher.count(besides=self._under_way)
        return MOST_BESIDE_CLIENTS if for_clients else MOST_AT_ONCE

    def _ended(self, _: object, task: Deferred[None]) -> None:
        self._tasks.discard(task)

    async def _get(self, row: Any) -> None:
        wanted = Wanted(row.filename, sha256=row.sha256, size=row.size)
        try:
            transfer = self._fetcher.start(wanted, self._sources(row.sha256), counted=False)
            digests = await transfer.done()
        except PymirrorError as error:
            if not self._stopped:
                await self._put_off(row, error)
        else:
            self.fetched += 1
            self.fetched_bytes += digests.size
            # Noted before the next look, which would find it missing and fetch it again.
            await self._hosted.note_here(row.sha256)
        finally:
            del self._under_way[row.sha256]
            self._look()

    async def _put_off(self, row: Any, error: PymirrorError) -> None:
        seconds = min(_LAST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2 ** min(row.tries, 12))
        now = self._now()
        self.errors.append(
            {"at": iso(now), "file": row.filename, "error": str(error), "tries": row.tries + 1,
             "next_try": iso(now + seconds)}
        )  # fmt: skip
        await self._hosted.local.write(lambda c: hosted.put_off(c, row.sha256, now + seconds))
        if isinstance(error, NotFound):
            self._hosted.rescan()  # perhaps no index holds it any more
