"""The service that keeps following the primary's log.

Order of effects: node-only blobs that the page names fetched; identity, contiguity, formats and
signed root checked → entries, state and position in one transaction → caches hear of it →
waiters wake. Any failed check: nothing of the page is applied.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from attrs import define, field, frozen
from sqlalchemy import Connection
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from cluster.clock import Clock
from cluster.durable import write_durably
from cluster.errors import LogError
from cluster.log import changelog
from cluster.log.changes import decode
from cluster.log.checkpoint import LogKey
from cluster.log.epochs import MARK, Owner, Trust, next_owner, owner_after
from cluster.log.merkle import Frontier, leaf_hash
from cluster.protocol import POLL_WAIT_SECONDS, TAIL_PAGE_LIMIT, TailPage, log_origin
from cluster.state import queries
from cluster.state.apply import apply
from cluster.state.database import Database
from cluster.state.position import Head, Position
from cluster.state.rows import Touched
from cluster.threads import Runner
from cluster.web.status import LogIdentity
from replica.following import (
    Following,
    State,
    applied,
    delay_seconds,
    failed,
)
from replica.primary_client import PrimaryClient, unpack
from replica.secretsync import LacksSecrets, SecretSync

# An empty page normally comes after a long wait; a primary that sends them at once (it is
# going down, or worse) must not keep both of us busy.
_EMPTY_PAGE_SECONDS = 0.05


@frozen
class Taken:
    """A page after it was applied; `checkpoint` is the signed note for its end."""

    checkpoint: bytes
    frontier: Frontier
    head: Head
    touched: Touched


@define(eq=False)
class Follower:
    """Copies the primary's log, entry by entry, and applies it."""

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
    following: Following = field(factory=Following)
    identity: LogIdentity | None = None
    note: bytes | None = None
    _chance: random.Random = field(factory=random.Random)
    _running: Deferred[None] | None = None
    _pausing: Deferred[None] | None = None
    _stopped: bool = False

    def start(self) -> None:
        """Begin to follow; returns at once."""
        self.following = Following(since=self._now(), caught_up_once=self._caught_up_file.exists())
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(_cancelled)

    async def stop(self) -> None:
        """Break off what is being waited for and end."""
        self._stopped = True
        if self._running is not None and not self._running.called:
            self._running.cancel()
            await self._running

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
                self._failed(error)
                if self.stopping():  # whatever the cancelled wait was turned into
                    return
                await self._pause(delay_seconds(self.following, self._chance))

    def _failed(self, error: Exception) -> None:
        before = self.following.state
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
        at = self.frontier
        # Only who has everything waits for news: a restarted replica must learn at once that
        # nothing is missing.
        in_sync = self.following.state is State.IN_SYNC
        report = orjson.dumps(self.report(self.following))
        body, encoding, primary_serial = await self._client.tail(
            identity.log, at, POLL_WAIT_SECONDS if in_sync else 0.0, report
        )
        trust = Trust(identity.log, identity.key, self._client.secret)

        def work(connection: Connection) -> Taken:
            # Decompressing here too saves a trip between threads for each page.
            page = unpack(body, encoding, TAIL_PAGE_LIMIT)
            self._secrets.require(page.entries)
            return take(connection, trust, at, page)

        try:
            taken = await self._database.write(work)
        except LacksSecrets as lacking:
            await self._secrets.fetch(lacking.names)
            taken = await self._database.write(work)
        self.note = taken.checkpoint
        self.frontier = taken.frontier
        if taken.frontier.size > at.size:
            time = taken.head.time or self._position.head.time
            self._position.advance(
                Head(taken.head.serial, taken.head.epoch, taken.head.root, time), taken.touched
            )
        before, now = self.following, self._now()
        self.following = applied(before, self._position.serial, primary_serial, now)
        if self.following.caught_up_once and not before.caught_up_once:
            await self._heavy.run(write_durably, self._caught_up_file, b"")
        if taken.frontier.size == at.size:
            await self._pause(_EMPTY_PAGE_SECONDS)

    async def _known_identity(self) -> LogIdentity:
        if self.identity is None:
            self.identity = await self._heavy.run(read_identity, self._identity_file)
        if self.identity is None:
            if self.frontier.size:
                raise LogError(f"{self._identity_file} is missing: restore it, or start afresh")
            met = await self._client.identity()
            # Durable before the first entry: a log is only ever followed under this identity.
            await self._heavy.run(write_identity, self._identity_file, met)
            self.identity = met
        return self.identity


def _cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)


def read_identity(path: Path) -> LogIdentity | None:
    """The identity of the log that this replica follows, or None before it met its primary."""
    try:
        values = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return LogIdentity(values["log"], values["key"])


def write_identity(path: Path, identity: LogIdentity) -> None:
    """Pin the identity of the log that this replica follows from now on."""
    write_durably(path, orjson.dumps({"log": identity.log, "key": identity.key}))


def take(connection: Connection, trust: Trust, at: Frontier, page: TailPage) -> Taken:
    """Verify a page and apply it in the caller's transaction; raises LogError, UnknownFormat.

    The checkpoint is checked before anything else: bytes that the log's owner did not sign are
    not looked into, but for entries that say who the owner is, and prove it themselves.
    """
    known = queries.epoch(connection)
    owner = None if known is None else Owner(known.epoch, known.key)
    signer = _signer(trust, owner, at, page)
    key = LogKey(log_origin(trust.log), base64.b64decode(signer.key))
    checkpoint = key.open(page.checkpoint)
    if checkpoint.origin != key.name:
        raise LogError(f"a checkpoint of {checkpoint.origin}, not of {key.name}")
    after = at.extended(leaf_hash(entry) for entry in page.entries)
    if checkpoint.size != after.size:
        raise LogError(f"the checkpoint is for {checkpoint.size} entries, the page ends at "
                       f"{after.size}")  # fmt: skip
    if checkpoint.root != after.root:
        raise LogError("the entries do not have the root that the checkpoint signs")
    entries = [decode(raw) for raw in page.entries]
    owner = owner_after(trust, owner, entries, at)
    if entries and not entries[-1].ends_group:
        raise LogError("a page of the log ends inside a group")
    touched = Touched()
    for entry in entries:
        apply(connection, entry, touched)
    appended = changelog.append(connection, at, entries)
    time = entries[-1].time if entries else None
    head = Head(appended.size, owner.epoch, appended.root, time)
    return Taken(page.checkpoint, appended, head, touched)


def _signer(trust: Trust, owner: Owner | None, at: Frontier, page: TailPage) -> Owner:
    """Who must have signed a page: the owner behind it."""
    for place, raw in enumerate(page.entries):
        if MARK in raw:
            before = at.extended(leaf_hash(entry) for entry in page.entries[:place])
            owner = next_owner(trust, owner, decode(raw), before)
    return owner or Owner(0, trust.key)
