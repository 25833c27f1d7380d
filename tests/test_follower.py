"""Following over a real socket: whatever a primary sends, the state is the log's, or as before."""

from __future__ import annotations

import gzip
import os
import random
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_twisted
import zstandard
from attrs import define, field
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, event
from treq.client import HTTPClient
from twisted.internet.task import Clock
from twisted.web.http import datetimeToString

from cluster.agent import make_direct_agent
from cluster.auth.nodes import NodeSecret
from cluster.durable import SecretBlobs
from cluster.errors import AuthenticationRequired, LogError
from cluster.files.waiting import Broadcast
from cluster.log import changelog
from cluster.log.changes import Change, Kind
from cluster.log.checkpoint import Checkpoint, LogSigner
from cluster.protocol import (
    NODE_HEADER,
    POLL_TIMEOUT_SECONDS,
    REPLICA_HEADER,
    TailPage,
    encode_tail,
    verify_node_token,
)
from cluster.state import queries
from cluster.state.apply import digest
from cluster.state.database import Database
from cluster.state.position import Head, Position
from cluster.threads import Inline
from replica.follower import Follower
from replica.following import State
from replica.pagestream import EncodedPage, unpack
from replica.primary_client import PrimaryClient
from replica.secretsync import SecretSync
from tests.fake_primary import SECRET, FakePrimary, Script, note, root
from tests.fakes import (
    EPOCH,
    NOW,
    PRIVATE,
    SIGNER,
    START,
    as_clock,
    database,
    entries,
    entry,
    user_set,
)
from tests.file_servers import reactor

NODE = "6a0e6d0e-2f5f-4f57-9f4d-5f0f4b7c9d11"
PAGE_LIMIT = 1 << 20


class PauseClock(Clock):
    """Tells when a follower pauses; only the short pause behind an empty page ends by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.delays: list[float] = []
        self.paused = Broadcast()

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> Any:
        self.delays.append(delay)
        reactor.callLater(0, self.paused.wake)  # when the follower does wait
        if delay < 0.1:
            return reactor.callLater(0, callable, *args, **kw)
        return super().callLater(delay, callable, *args, **kw)


@define(eq=False)
class Replica:
    """A follower, what it stands on, and the clocks that the test moves."""

    primary: FakePrimary
    folder: Path
    database: Database
    agent: Any = field(factory=lambda: make_direct_agent(reactor))
    asking: Clock = field(factory=Clock)
    pauses: PauseClock = field(factory=PauseClock)
    now: float = NOW
    follower: Follower = field(init=False)
    position: Position = field(init=False)

    @property
    def blobs(self) -> SecretBlobs:
        """The node-only blobs of this replica."""
        return SecretBlobs(self.folder / "secrets")

    def start(self) -> None:
        """Begin with what the database and the folder hold, as a new process does."""
        with self.database.engine.begin() as connection:
            frontier = changelog.frontier(connection)
            epoch = queries.epoch(connection)
        head = Head(frontier.size, epoch.epoch if epoch else 0, frontier.root, None)
        self.position = Position(reactor, head)
        secret = NodeSecret(SECRET, lambda: self.now)
        client = PrimaryClient(
            [self.primary.url], HTTPClient(self.agent), as_clock(self.asking), secret, NODE,
            lambda: self.now, PAGE_LIMIT, self.agent,
        )  # fmt: skip
        self.follower = Follower(
            client, self.database, Inline(), self.position, as_clock(self.pauses),
            lambda: self.now, self.folder, frontier, lambda following: {"state": following.state},
            SecretSync(client, self.blobs, Inline()),
        )  # fmt: skip
        self.follower.start()

    async def reach(self, serial: int) -> None:
        assert await self.position.reached(serial, 10.0), self.follower.following.last_error

    async def in_sync(self) -> None:
        """Wait until the follower has everything and asks for more."""
        while self.state is not State.IN_SYNC or not self.primary.is_waited_for:
            await self.primary.polled.wait().addTimeout(10.0, reactor)

    async def paused(self, ready: Callable[[], bool]) -> None:
        while not ready():
            await self.pauses.paused.wait().addTimeout(10.0, reactor)

    async def failed(self, times: int = 1) -> None:
        """Wait until so many attempts in a row have failed."""
        await self.paused(lambda: self.follower.following.failures >= times)

    def retry(self) -> None:
        """Let the pause behind a failure end."""
        self.pauses.advance(31.0)

    def facts(self) -> tuple[Any, ...]:
        """All that a bad answer must not change."""
        with self.database.engine.begin() as connection:
            stored = changelog.frontier(connection)
            log = [one.raw for one in changelog.entries(connection)]
            rows = digest(connection)
        return rows, stored, log, self.position.head, self.follower.frontier

    @property
    def state(self) -> State:
        return self.follower.following.state


@asynccontextmanager
async def following(folder: Path, primary: FakePrimary) -> AsyncIterator[Replica]:
    """A primary and a replica that is started; both end with the block."""
    with database() as own:
        async with primary.running():
            replica = Replica(primary, folder, own)
            replica.start()
            try:
                yield replica
            finally:
                await replica.follower.stop()
                await replica.agent._pool.closeCachedConnections()


def log_of(*names: str) -> FakePrimary:
    """A primary whose log has these users."""
    return FakePrimary(entries([START, *(user_set(name) for name in names)]))


GROUP = [
    Change(Kind.MIRROR_PROJECT, {"index": "root/pypi", "project": "foo", "part": n, "parts": 3})
    for n in (1, 2, 3)
]
NEWS = [user_set("dan"), user_set("eve"), *GROUP]
AT = 3  # the replica's position when the primary turns hostile


@pytest_twisted.ensureDeferred
async def test_catches_up_and_follows(tmp_path: Path) -> None:
    """A new replica copies the log, waits for news, and has them as soon as they are sent."""
    async with following(tmp_path, log_of("ann", "bob")) as it:
        await it.reach(3)
        it.primary.record(user_set("carl"))
        await it.reach(4)
        assert [one.raw for one in it.primary.log] == it.facts()[2]
        assert it.state is State.IN_SYNC
        assert it.follower.following.caught_up_once
        with it.database.engine.begin() as connection:
            assert queries.user(connection, "carl") is not None
        assert root(it.primary.root_entries(4)) == it.position.head.root


@pytest_twisted.ensureDeferred
async def test_a_poll_says_who_asks(tmp_path: Path) -> None:
    """Each poll carries the node's token and its report; only who is in sync waits for news."""
    async with following(tmp_path, log_of("ann")) as it:
        await it.reach(2)
        it.primary.record(user_set("bob"))
        await it.reach(3)
        first, last = it.primary.polls[0], it.primary.polls[-1]
        token = first.requestHeaders.getRawHeaders(NODE_HEADER)[0]
        assert verify_node_token(SECRET, token, NOW) == NODE
        assert first.requestHeaders.getRawHeaders("Accept-Encoding")[0] == "zstd"
        assert first.args[b"wait"] == [b"0"]
        assert last.args[b"wait"] == [b"25"]
        said = orjson.loads(last.requestHeaders.getRawHeaders(REPLICA_HEADER)[0])
        assert said == {"state": "in-sync"}


def forged(primary: FakePrimary, *raw: bytes) -> TailPage:
    """Entries that the log's own key signed, whatever they are."""
    return TailPage(list(raw), note(primary.root_entries(AT) + list(raw)))


def page(make: Callable[[FakePrimary], TailPage]) -> Script:
    return lambda primary, request: primary.send(request, make(primary))


def wrong_root(primary: FakePrimary) -> TailPage:
    bad = SIGNER.sign(Checkpoint(SIGNER.name, len(primary.log), bytes(32)))
    return TailPage(primary.page(AT).entries, bad)


def wrong_signature(primary: FakePrimary) -> TailPage:
    good = primary.page(AT)
    at = good.checkpoint.rindex(b" ") + 20
    letter = b"B" if good.checkpoint[at : at + 1] == b"A" else b"A"
    return TailPage(good.entries, good.checkpoint[:at] + letter + good.checkpoint[at + 1 :])


def signed_by(signer: LogSigner) -> Script:
    def make(primary: FakePrimary) -> TailPage:
        raw = primary.root_entries(len(primary.log))
        return TailPage(raw[AT:], note(raw, signer))

    return page(make)


def other_origin(primary: FakePrimary) -> TailPage:
    everything = primary.root_entries(len(primary.log))
    bad = SIGNER.sign(Checkpoint("pymirror/other", len(everything), root(everything)))
    return TailPage(everything[AT:], bad)


def body(data: bytes, kind: str | None = None, encoding: str | None = None) -> Script:
    def send(primary: FakePrimary, request: Any) -> None:
        if encoding:
            request.setHeader("Content-Encoding", encoding)
        primary.send_body(request, data, *([kind] if kind else []))

    return send


def status(code: int) -> Script:
    def send(primary: FakePrimary, request: Any) -> None:
        request.setResponseCode(code)
        request.setHeader("Location", f"{primary.url}/elsewhere")
        primary.send_body(request, b"no", "text/plain")

    return send


def cut(primary: FakePrimary, request: Any) -> None:
    whole = encode_tail(primary.page(AT))
    request.setHeader("Content-Type", "application/x-pymirror-log")
    request.setHeader("Content-Length", str(len(whole)))
    request.write(whole[: len(whole) // 2])
    request.channel.loseConnection()


def endless(primary: FakePrimary, request: Any) -> None:
    request.setHeader("Content-Type", "application/x-pymirror-log")

    class Producer:
        def resumeProducing(self) -> None:
            request.write(b"x" * 65_536)

        def stopProducing(self) -> None:
            pass

    request.registerProducer(Producer(), False)


def unknown(**values: Any) -> Callable[[FakePrimary], TailPage]:
    known = orjson.loads(entry(AT + 1, user_set("ann")).raw)
    return lambda primary: forged(primary, orjson.dumps({**known, **values}))


BOMB = b"\0" * (40 << 20)
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(32))
HOSTILE: dict[str, tuple[Script, State, str]] = {
    "wrong root": (page(wrong_root), State.BAD_ANSWER, "do not have the root"),
    "wrong signature": (page(wrong_signature), State.BAD_ANSWER, "signature is wrong"),
    "other key": (
        signed_by(LogSigner(SIGNER.name, STRANGER)), State.BAD_ANSWER, "not signed by"),
    "other name": (
        signed_by(LogSigner("pymirror/other", PRIVATE)), State.BAD_ANSWER, "not signed by"),
    "other origin": (page(other_origin), State.BAD_ANSWER, "a checkpoint of pymirror/other"),
    "rollback": (page(lambda p: TailPage([], p.page(0, 2).checkpoint)), State.BAD_ANSWER,
                 "for 2 entries"),
    "gap": (page(lambda p: TailPage(p.page(AT + 1).entries, p.page(AT).checkpoint)),
            State.BAD_ANSWER, "the page ends at"),
    "signed gap": (page(lambda p: forged(p, *p.root_entries(9)[AT + 1:])), State.BAD_ANSWER,
                   "was expected"),
    "repeated entries": (page(lambda p: p.page(1)), State.BAD_ANSWER, "the page ends at"),
    "signed repeat": (page(lambda p: forged(p, *p.root_entries(9)[AT - 1:])), State.BAD_ANSWER,
                      "was expected"),
    "out of order": (page(lambda p: TailPage(p.page(AT).entries[::-1], p.page(AT).checkpoint)),
                     State.BAD_ANSWER, "do not have the root"),
    "signed disorder": (page(lambda p: forged(p, p.log[4].raw, p.log[3].raw)), State.BAD_ANSWER,
                        "was expected"),
    "changed entry": (
        page(lambda p: TailPage([entry(4, user_set("mallory")).raw], p.page(AT, 4).checkpoint)),
        State.BAD_ANSWER, "do not have the root"),
    "half a group": (page(lambda p: p.page(AT, 7)), State.BAD_ANSWER, "inside a group"),
    "other epoch": (page(lambda p: forged(p, entry(4, user_set("x"), EPOCH + 1).raw)),
                    State.BAD_ANSWER, "of epoch 2"),
    "second start": (page(lambda p: forged(p, entry(4, START).raw)), State.BAD_ANSWER, "epoch"),
    "malformed": (page(lambda p: forged(p, entry(4, Change(Kind.INDEX_SET, {})).raw)),
                  State.BAD_ANSWER, "malformed"),
    "not an entry": (page(lambda p: forged(p, b"{}")), State.BAD_ANSWER, "not a JSON object"),
    "unknown kind": (page(unknown(kind="moon.landed")), State.NEEDS_UPGRADE, "upgrade this node"),
    "unknown format": (page(unknown(format=9)), State.NEEDS_UPGRADE, "upgrade this node"),
    "garbage": (body(random.Random(1).randbytes(5_000)), State.BAD_ANSWER, ""),
    "nothing": (body(b""), State.BAD_ANSWER, "has no end"),
    "no note": (page(lambda p: TailPage(p.page(AT).entries, b"")), State.BAD_ANSWER,
                "not a signed checkpoint"),
    "web page": (body(b"<html>Welcome!</html>", "text/html"), State.BAD_ANSWER,
                 "not a page of the log"),
    "odd encoding": (body(b"x", encoding="br"), State.BAD_ANSWER, "in encoding 'br'"),
    "broken zstd": (body(b"x" * 99, encoding="zstd"), State.BAD_ANSWER, "does not decompress"),
    "broken gzip": (body(b"x" * 99, encoding="gzip"), State.BAD_ANSWER, ""),
    "zstd bomb": (body(zstandard.compress(BOMB), encoding="zstd"), State.BAD_ANSWER, "more than"),
    "gzip bomb": (body(gzip.compress(BOMB, 1), encoding="gzip"), State.BAD_ANSWER, "more than"),
    "endless body": (endless, State.BAD_ANSWER, "too large"),
    "cut": (cut, State.PRIMARY_UNREACHABLE, ""),
    "404": (status(404), State.BAD_ANSWER, "answers 404"),
    "401": (status(401), State.NOT_ADMITTED, "answers 401: no"),
    "409": (status(409), State.DIVERGED, "answers 409"),
    "412": (status(412), State.OTHER_LOG, "answers 412"),
    "421": (status(421), State.NOT_PRIMARY, "answers 421"),
    "500": (status(500), State.BAD_ANSWER, "answers 500"),
    "503": (status(503), State.PRIMARY_UNREACHABLE, "answers 503"),
    "redirect": (status(302), State.BAD_ANSWER, "answers 302"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
@pytest_twisted.ensureDeferred
async def test_hostile_answers_change_nothing(tmp_path: Path, what: str) -> None:
    """R11: log, state and position stay, the trouble is named, and a good primary ends it."""
    script, state, message = HOSTILE[what]
    async with following(tmp_path, log_of("ann", "bob")) as it:
        await it.reach(AT)
        before = it.facts()
        it.now += 60
        it.primary.log += entries(NEWS, AT + 1)
        it.primary.turn(script)
        await it.failed()
        it.retry()
        await it.failed(2)
        assert it.facts() == before
        told = it.follower.following
        assert told.state is state
        assert message in str(told.last_error)
        assert (told.since, told.last_error_at) == (NOW + 60, NOW + 60)
        assert told.caught_up_once
        it.primary.turn(None)
        it.retry()
        await it.reach(AT + len(NEWS))
        await it.in_sync()
        assert it.facts()[2] == [one.raw for one in it.primary.log]
        assert it.follower.following.failures == 0


@pytest.mark.parametrize("what", sorted(HOSTILE))
@pytest_twisted.ensureDeferred
async def test_hostile_from_the_start(tmp_path: Path, what: str) -> None:
    """A replica that never saw an entry takes none of a hostile primary, and recovers."""
    script, _, _ = HOSTILE[what]
    primary = log_of("ann", "bob")
    primary.record(*NEWS)
    if what == "half a group":
        script = page(lambda p: p.page(0, 7))
    primary.script = script
    async with following(tmp_path, primary) as it:
        before = it.facts()
        await it.failed()
        assert it.facts() == before
        assert not it.follower.following.caught_up_once
        it.primary.turn(None)
        it.retry()
        await it.reach(len(primary.log))


@pytest_twisted.ensureDeferred
async def test_a_trickle_is_broken_off(tmp_path: Path) -> None:
    """A byte a second does not keep a poll alive: the whole answer has a deadline."""
    async with following(tmp_path, log_of("ann", "bob")) as it:
        await it.reach(AT)
        before, came, left = it.facts(), Broadcast(), list[Any]()
        requests: list[Any] = []

        def trickle(primary: FakePrimary, request: Any) -> None:
            request.notifyFinish().addErrback(left.append).addErrback(lambda _: None)
            request.setHeader("Content-Type", "application/x-pymirror-log")
            requests.append(request)
            came.wake()

        it.primary.turn(trickle)
        while not requests:
            await came.wait()
        for _ in range(int(POLL_TIMEOUT_SECONDS) + 1):
            requests[0].write(b"x")
            it.asking.advance(1.0)
        await it.failed()
        assert it.state is State.PRIMARY_UNREACHABLE
        assert "no whole answer in time" in str(it.follower.following.last_error)
        assert it.facts() == before
        assert it.asking.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_a_primary_that_is_away(tmp_path: Path) -> None:
    """With nobody at the URL the state says so, the delays grow, and nothing is lost."""
    primary = log_of("ann")
    with database() as own:
        async with primary.running():
            it = Replica(primary, tmp_path, own)
            it.start()
            await it.in_sync()
            before = it.facts()
        for times in (1, 2, 3, 4, 5, 6):
            await it.failed(times)
            it.retry()
        await it.failed(7)
        assert it.state is State.PRIMARY_UNREACHABLE
        assert not it.follower.reachable
        delays = [delay for delay in it.pauses.delays if delay > 0.1]
        assert delays[0] <= 1.0
        assert 3.0 <= delays[-1] <= 6.0
        assert it.facts() == before
        await it.follower.stop()


@pytest.mark.parametrize(
    ("identity", "state", "message"),
    [
        (lambda p, r: p.send_identity(r, secret=b"another"), State.NOT_ADMITTED, "secret"),
        (lambda p, r: p.send_body(r, b"{}", "application/json"), State.NOT_ADMITTED, "secret"),
        (lambda p, r: p.send_body(r, b"[1]", "application/json"), State.BAD_ANSWER, "JSON"),
        (lambda p, r: p.send_body(r, b"<html>", "text/html"), State.BAD_ANSWER, "JSON"),
        (status(404), State.BAD_ANSWER, "404"),
        (status(503), State.PRIMARY_UNREACHABLE, "503"),
        (endless, State.BAD_ANSWER, "too large"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_joining_a_stranger(
    tmp_path: Path, identity: Script, state: State, message: str
) -> None:
    """Who cannot prove to hold the secret is not followed, and nothing is pinned."""
    primary = log_of("ann")
    primary.identity = identity
    async with following(tmp_path, primary) as it:
        await it.failed()
        assert it.state is state
        assert message in str(it.follower.following.last_error)
        assert os.listdir(tmp_path) == []
        assert it.primary.polls == []
        primary.identity = None
        it.retry()
        await it.reach(2)


@pytest_twisted.ensureDeferred
async def test_a_log_that_begins_as_another(tmp_path: Path) -> None:
    """The log's first entry must name the identity that was proven."""
    other = Change(Kind.EPOCH_STARTED, {**START.payload, "log": "another"})
    async with following(tmp_path, FakePrimary(entries([other]))) as it:
        await it.failed()
        assert it.state is State.BAD_ANSWER
        assert "identity that its owner proved" in str(it.follower.following.last_error)
        assert it.position.serial == 0


@pytest_twisted.ensureDeferred
async def test_a_restart_goes_on(tmp_path: Path) -> None:
    """A new process on the same database continues where the old one was, without the past."""
    async with following(tmp_path, log_of("ann", "bob")) as it:
        await it.reach(3)
        await it.follower.stop()
        it.primary.log += entries(NEWS, 4)
        it.primary.polls.clear()
        it.start()
        assert it.follower.following.caught_up_once
        assert it.state is State.CONNECTING
        await it.reach(8)
        assert it.primary.polls[0].args[b"from"] == [b"3"]
        assert it.facts()[2] == [one.raw for one in it.primary.log]


@pytest_twisted.ensureDeferred
async def test_a_lost_identity_file(tmp_path: Path) -> None:
    """A log without its pinned identity is not continued under whatever answers now."""
    async with following(tmp_path, log_of("ann")) as it:
        await it.reach(2)
        await it.follower.stop()
        (tmp_path / "log-identity").unlink()
        it.start()
        await it.failed()
        assert it.state is State.BAD_ANSWER
        assert "log-identity is missing" in str(it.follower.following.last_error)
        assert it.position.serial == 2


@pytest_twisted.ensureDeferred
async def test_a_commit_that_fails(tmp_path: Path) -> None:
    """With a full disk nothing of a page is here, not even in memory; later all of it is."""
    async with following(tmp_path, log_of("ann", "bob")) as it:
        await it.reach(3)
        before = it.facts()

        def full(connection: Connection) -> None:
            raise OSError(28, "No space left on device")

        event.listen(it.database.engine, "commit", full)
        it.primary.record(*NEWS)
        await it.failed()
        event.remove(it.database.engine, "commit", full)
        assert it.facts() == before
        assert "No space left" in str(it.follower.following.last_error)
        it.retry()
        await it.reach(8)


@pytest_twisted.ensureDeferred
async def test_pages_come_compressed(tmp_path: Path) -> None:
    """A page in zstd is the same page."""
    primary = log_of("ann", "bob")
    primary.compressed = True
    async with following(tmp_path, primary) as it:
        await it.reach(3)
        assert it.facts()[2] == [one.raw for one in primary.log]


@pytest_twisted.ensureDeferred
async def test_empty_pages_do_not_spin(tmp_path: Path) -> None:
    """A primary that answers at once with nothing is not asked again without a pause."""
    async with following(tmp_path, log_of("ann", "bob")) as it:
        await it.reach(3)
        it.pauses.delays.clear()
        it.primary.polls.clear()
        it.primary.turn(lambda p, request: p.send(request, p.page(3), serial=1_000))
        await it.paused(lambda: len(it.pauses.delays) >= 5)
        assert len(it.primary.polls) <= 6
        assert it.state is State.CATCHING_UP
        assert it.follower.following.primary_serial == 1_000


@pytest_twisted.ensureDeferred
async def test_a_wrong_clock_learns_the_time(tmp_path: Path) -> None:
    """A replica whose clock is hours off is asked for a better token, and joins with it."""
    primary = log_of("ann")
    theirs = NOW + 7_200

    def check(fake: FakePrimary, request: Any) -> None:
        token = request.requestHeaders.getRawHeaders(NODE_HEADER)[0]
        request.setHeader("Date", datetimeToString(theirs))  # type: ignore[no-untyped-call,unused-ignore]
        try:
            verify_node_token(SECRET, token, theirs)
        except AuthenticationRequired:
            request.setResponseCode(401)
            fake.send_body(request, b"expired", "text/plain")
        else:
            fake.send(request, fake.page(int(request.args[b"from"][0])))

    primary.script = check
    async with following(tmp_path, primary) as it:
        await it.reach(2)
        assert it.follower.following.failures == 0


@pytest_twisted.ensureDeferred
async def test_read_your_writes(tmp_path: Path) -> None:
    """Who waits for a serial is woken by the page that brings it; caches hear of it before."""
    async with following(tmp_path, log_of("ann")) as it:
        await it.reach(2)
        heard: list[int] = []
        it.position.listen(lambda head, touched: heard.append(head.serial))
        assert not await it.position.reached(4, 0.01)
        it.primary.record(user_set("bob"), user_set("carl"))
        await it.reach(4)
        assert heard == [4]


@pytest_twisted.ensureDeferred
async def test_stop_while_waiting(tmp_path: Path) -> None:
    """A follower that waits for news, or pauses, ends at once and leaves no timer."""
    async with following(tmp_path, log_of("ann")) as it:
        await it.reach(2)
        await it.follower.stop()
        it.start()
        it.primary.turn(status(503))
        await it.failed()
        await it.follower.stop()
        assert it.pauses.getDelayedCalls() == []
        assert it.asking.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("encoding", "data"),
    [("zstd", zstandard.compress(bytes(500 << 20))), ("gzip", gzip.compress(bytes(100 << 20), 1))],
    ids=["zstd", "gzip"],
)
def test_bombs_take_bounded_memory(encoding: str, data: bytes) -> None:
    """Half a gigabyte of nothing is refused within a few times the limit of a page."""
    tracemalloc.start()
    with pytest.raises(LogError, match="more than"):
        unpack(EncodedPage(data, encoding), 4 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20
