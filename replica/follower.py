"""The service that keeps following the primary's log.

Order of effects: node-only blobs that the page names fetched; identity, contiguity, formats and
signed root checked → entries, state and position in one transaction → caches hear of it →
waiters wake → the disk has kept it → the primary is told of it, by the next poll or between two.
Any failed check: nothing of the page is applied.

Readers see entries before they are durable here: after a power cut they are followed once more.
While the primary streams pages, the disk and the primary wait for a pause between them, or for
a second; or until the primary says that somebody waits for us.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
from attrs import Factory, define, field
from sqlalchemy import Connection
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from cluster.clock import Clock
from cluster.durable import write_durably
from cluster.errors import LogError
from cluster.log import changelog, notes
from cluster.log.epochs import Start, Trust, parting
from cluster.log.merkle import Frontier
from cluster.protocol import EVIDENCE_PATH, POLL_WAIT_SECONDS, TAIL_PAGE_LIMIT
from cluster.rollback import roll_back
from cluster.state import queries
from cluster.state.database import Database
from cluster.state.position import Head, Position
from cluster.state.rows import Touched
from cluster.threads import Runner
from cluster.web.status import LogIdentity
from replica.bootstrap import Bootstrap
from replica.following import (
    Diverged,
    Following,
    NotPrimary,
    State,
    TooFarBehind,
    Unreachable,
    applied,
    delay_seconds,
    failed,
)
from replica.owners import Owners
from replica.pagestream import EncodedPage, PageStream, Sign, Untold, unpack
from replica.pinned import known_identity
from replica.primary_client import PrimaryClient
from replica.secretsync import LacksSecrets, SecretSync
from replica.taking import Taken, take

# An empty page normally comes after a long wait; a primary that sends them at once (it is
# going down, or worse) must not keep both of us busy.
_EMPTY_PAGE_SECONDS = 0.05
_MOST_EMPTY_ENDS = 3


@define(eq=False)
class Follower:
    """Copies the primary's log, entry by entry, and applies it.

    `on_durable` hears when more of it is durable, between two polls.
    """

    _log = Logger()

    _client: PrimaryClient
    _database: Database
    _heavy: Runner
    _position: Position
    _clock: Clock
    _now: Callable[[], float]
    _state_dir: Path
    frontier: Frontier
    report: Callable[[Following], dict[str, Any]]
    _secrets: SecretSync
    bootstrap: Bootstrap | None = None
    following: Following = field(factory=Following)
    identity: LogIdentity | None = None
    note: bytes | None = None
    durable: Frontier = field(factory=Frontier)
    """What of the log survives a power cut; nobody is told of more."""
    on_durable: Callable[[], None] = lambda: None
    _pages: PageStream | None = None
    _untold: Untold = field(factory=Untold)
    _empty_ends: int = 0
    _later: tuple[Start, ...] | None = None
    _had_no_more: bool = False
    _chance: random.Random = field(factory=random.Random)
    _owners: Owners = Factory(lambda self: Owners(self._database), takes_self=True)
    _running: Deferred[None] | None = None
    _pausing: Deferred[None] | None = None
    _stopped: bool = False

    def start(self) -> None:
        """Begin to follow; returns at once."""
        # An operator may have removed the log alone, to have it fetched again.
        caught_up_once = self.frontier.size > 0 and self._caught_up_file.exists()
        self.following = Following(since=self._now(), caught_up_once=caught_up_once)
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(_cancelled)

    async def stop(self) -> None:
        """Break off what is being waited for and end."""
        self._stopped = True
        if self._running is not None and not self._running.called:
            self._running.cancel()
            await self._running
        self._drop_pages()

    @property
    def _identity_file(self) -> Path:
        return self._state_dir / "log-identity"

    @property
    def _caught_up_file(self) -> Path:
        return self._state_dir / "caught-up"

    @property
    def reachable(self) -> bool:
        """Whether what the primary is asked for can still arrive here through its log."""
        return self.following.state in (State.CONNECTING, State.CATCHING_UP, State.IN_SYNC)

    def stopping(self) -> bool:
        """Whether it was told to end."""
        return self._stopped

    async def _run(self) -> None:
        while not self.stopping():
            try:
                await self._step()
            except Exception as error:
                if self.stopping():  # whatever the cancelled wait was turned into
                    return
                self._failed(error)
                await self._pause(delay_seconds(self.following, self._chance))

    def _failed(self, error: Exception) -> None:
        before = self.following.state
        self._drop_pages()
        # Who answers next may be another primary, of a later epoch.
        self._later, self._had_no_more = None, False
        self._client.move_on(error.primary_url if isinstance(error, NotPrimary) else None)
        self.following = failed(self.following, error, self._now())
        if self.following.state is not before:
            self._log.warn(
                "following: {state}: {error}", state=self.following.state, error=str(error)
            )
        if self.following.state is State.BAD_ANSWER and not isinstance(error, LogError):
            self._log.failure("following failed in a way that was not foreseen")

    async def _pause(self, seconds: float) -> None:
        waiter: Deferred[None] = Deferred()
        self._pausing = waiter
        timer = self._clock.callLater(seconds, self.nudge)
        try:
            await waiter
        finally:
            self._pausing = None
            if timer.active():
                timer.cancel()

    def nudge(self) -> None:
        """Try again now: somebody has just had an answer from the primary."""
        if self._pausing is not None:
            waiter, self._pausing = self._pausing, None
            waiter.callback(None)

    async def _step(self) -> None:
        identity = await self._known_identity()
        trust = Trust(identity.log, identity.key, self._client.secret)
        if self._pages is None and self._client.take_preferred():
            self._later = None
        if self._later is None:
            self._later = tuple(s for s in await self._client.epochs() if s.is_proven(trust))
            await self._owners.met(self._later)
        try:
            if self._pages is None:
                await self._start_from_snapshot(trust, self._later)
                self._pages = await self._asked(trust)
            await self._take_next(trust, self._later, self._pages)
        except TooFarBehind:
            if self.bootstrap is None:
                raise
            self.bootstrap.demand()
        except Diverged:
            self._drop_pages()
            if not await self._healed(self._later):
                await self._give_evidence()
                raise

    async def _asked(self, trust: Trust) -> PageStream:
        at = self.frontier
        await self._make_durable(at)
        # Only who has everything waits for news: a restarted replica must learn at once that
        # nothing is missing. A replica that we follow may have no more although there is more.
        waits = self.following.state is State.IN_SYNC or self._had_no_more
        report = orjson.dumps(self.report(self.following))
        epoch = self._position.head.epoch
        claims = await self._owners.claims(epoch)
        seconds = POLL_WAIT_SECONDS if waits else 0.0
        return await self._client.tail(trust.log, at, epoch, seconds, report, claims, streams=True)

    async def _take_next(self, trust: Trust, later: Sequence[Start], pages: PageStream) -> None:
        seconds = self._untold.quiet_seconds(self._clock.seconds())
        if seconds == 0.0:
            await self._tell()
            return
        frame = await pages.next(seconds)
        if frame is Sign.END:
            self._pages = None
            await self._ended(pages)
        elif isinstance(frame, EncodedPage):
            await self._take_page(trust, later, frame)
        else:
            await self._tell()

    async def _tell(self) -> None:
        await self._make_durable(self.frontier)
        self.on_durable()

    async def _ended(self, pages: PageStream) -> None:
        self._empty_ends = self._empty_ends + 1 if pages.is_untouched else 0
        if self._empty_ends >= _MOST_EMPTY_ENDS:
            raise Unreachable(f"{self._client.url} ends its answers at once")
        if pages.is_untouched:
            await self._pause(_EMPTY_PAGE_SECONDS)

    async def _take_page(self, trust: Trust, later: Sequence[Start], one: EncodedPage) -> None:
        at = self.frontier

        def work(connection: Connection) -> Taken:
            # Decompressing here too saves a trip between threads for each page.
            page = unpack(one, TAIL_PAGE_LIMIT)
            self._secrets.require(page.entries)
            return take(connection, trust, at, page, later)

        try:
            taken = await self._database.write(work)
        except LacksSecrets as lacking:
            await self._secrets.fetch(lacking.names)
            taken = await self._database.write(work)
        await self._taken(taken, one.primary_serial)
        if taken.frontier.size == at.size:
            await self._pause(_EMPTY_PAGE_SECONDS)
        else:
            self._untold.came(self._clock.seconds())

    def _drop_pages(self) -> None:
        if self._pages is not None:
            self._pages.close()
        self._pages = None

    async def _make_durable(self, at: Frontier) -> None:
        self._untold.told()
        if self.durable != at:
            await self._database.make_durable()
            self.durable = at

    async def _start_from_snapshot(self, trust: Trust, later: Sequence[Start]) -> None:
        if self.bootstrap is None or not await self.bootstrap.is_due(self.frontier):
            return
        self.following = self.following.moved(State.BOOTSTRAPPING, self._now())
        started = await self.bootstrap.run(trust, self.frontier, later)
        self.note, self.frontier = None, started.frontier
        if started.head.serial < self._position.serial:  # a part of what was here is orphaned
            self._position.rewind(started.head)
        else:
            self._position.advance(started.head, Touched(indexes=True))

    async def _taken(self, taken: Taken, primary_serial: int) -> None:
        grown = taken.frontier.size > self.frontier.size
        self._had_no_more = not grown
        self.note, self.frontier = taken.checkpoint, taken.frontier
        if grown:
            time = taken.head.time or self._position.head.time
            self._position.advance(
                Head(taken.head.serial, taken.head.epoch, taken.head.root, time), taken.touched
            )
        before, now = self.following, self._now()
        self.following = applied(before, self._position.serial, primary_serial, now)
        if self.following.caught_up_once and not before.caught_up_once:
            await self._heavy.run(write_durably, self._caught_up_file, b"")

    async def _healed(self, later: Sequence[Start]) -> bool:
        """Whether what we hold beyond a newer epoch's beginning could be taken back."""
        if not any(start.epoch > self._position.head.epoch for start in later):
            return False
        fork = parting(await self._database.read(queries.starts), later)
        if fork is None or fork.serial > self.frontier.size:
            return False
        size = fork.serial - 1
        self._log.warn("epoch {epoch} began behind entry {size}: taking back what we hold beyond",
                       epoch=fork.epoch, size=size)  # fmt: skip

        def work(connection: Connection) -> tuple[Path | None, Head]:
            if changelog.frontier(connection, size).root != fork.root:
                return None, self._position.head
            orphans = roll_back(connection, size, self._state_dir)
            return orphans, queries.head(connection)

        try:
            orphans, head = await self._database.write(work)
        except changelog.Compacted:
            # The state cannot be replayed; the entries that nobody else has are in their file.
            if self.bootstrap is None or self.bootstrap.goes_back:
                return False
            common = await self._database.read(lambda c: changelog.frontier(c, size))
            self.durable = Frontier()
            self.bootstrap.demand(extending=common)
            return True
        if orphans is None:
            return False
        self._log.warn("entries that nobody else has are in {orphans}", orphans=orphans)
        self.note, self.durable = None, Frontier()
        self.frontier = await self._database.read(changelog.frontier)
        self._position.rewind(head)
        return True

    async def _give_evidence(self) -> None:
        """Show the primary what it signed for us: one that is not what it was stops its writes."""
        size = self.frontier.size
        note = await self._database.read(lambda c: notes.at(c, size))
        if note is not None:
            with suppress(Unreachable, LogError):
                await self._client.ask("POST", EVIDENCE_PATH, self._client.headers(), note)

    async def _known_identity(self) -> LogIdentity:
        if self.identity is None:
            self.identity = await known_identity(
                self._identity_file, self._client, self._heavy, is_new=not self.frontier.size
            )
        return self.identity


def _cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)
