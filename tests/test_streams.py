"""Answers that go on: pages as they are made, on both ends, and all that can become of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cluster.errors import AuthenticationRequired, TooManyRequests
from cluster.log.changes import Change
from cluster.log.merkle import Frontier
from cluster.protocol import (
    FRAME,
    POLL_TIMEOUT_SECONDS,
    STREAM_TYPE,
    TELL,
    TailPage,
    encode_frame,
    encode_tail,
)
from cluster.state.position import Head, Position
from cluster.state.rows import Touched
from cluster.web.polls import Polls
from cluster.web.tail import Asked, Page
from primary.acks import Acks
from primary.streams import CONFIRM_SECONDS, Streams
from replica.following import State
from replica.pagestream import QUIET_SECONDS, Untold
from tests.fake_primary import FakePrimary, Script
from tests.fakes import as_clock, entries, user_set
from tests.file_servers import reactor
from tests.test_follower import PAGE_LIMIT, Replica, following, log_of

NODE = "6a0e6d0e-2f5f-4f57-9f4d-5f0f4b7c9d11"


@define(eq=False)
class Streaming:
    """A primary's script: it answers polls that wait by streams, which the test writes."""

    open: list[Any] = field(factory=list)

    def __call__(self, primary: FakePrimary, request: Any) -> None:
        start = int(request.args[b"from"][0])
        assert request.args[b"stream"] == [b"1"]
        if start < len(primary.log):
            primary.send(request, primary.page(start))
            return
        request.setHeader("Content-Type", STREAM_TYPE)
        request.write(b"")
        self.open.append(request)

    def send(self, primary: FakePrimary, *changes: Change) -> None:
        """New entries as one more page."""
        start = len(primary.log)
        primary.log += entries(changes, start + 1)
        self.open[-1].write(encode_frame(encode_tail(primary.page(start)), None, len(primary.log)))


async def begun(it: Replica) -> Streaming:
    """Have a new follower be answered by a stream once it has everything."""
    script = Streaming()
    it.primary.script = script
    while not script.open:
        await it.primary.polled.wait()
    return script


@pytest_twisted.ensureDeferred
async def test_one_answer_has_many_pages(tmp_path: Path) -> None:
    """Whatever comes is applied at once, without another poll; then the primary is told, when it
    asks for that or after a pause, of what is durable."""
    async with following(tmp_path, log_of("ann")) as it:
        told: list[int] = []
        it.follower.on_durable = lambda: told.append(it.follower.durable.size)
        script = await begun(it)
        polls = len(it.primary.polls)
        script.send(it.primary, user_set("bob"))
        await it.reach(3)
        script.send(it.primary, user_set("carl"), user_set("dan"))
        await it.reach(5)
        assert told == []
        script.open[-1].write(FRAME.pack(TELL, 3, 0))
        while not told:
            await turn()
        assert told == [5]
        script.send(it.primary, user_set("eve"))
        await it.reach(6)
        while len(told) < 2:
            it.asking.advance(0.1)
            await turn()
        assert told == [5, 6]
        assert len(it.primary.polls) == polls
        assert it.state is State.IN_SYNC
        it.primary.script = None
        script.open[-1].finish()
        while not it.primary.is_waited_for:
            await it.primary.polled.wait()
        assert it.follower.following.failures == 0


def turn() -> Deferred[None]:
    """Let the reactor do what is ready."""
    done: Deferred[None] = Deferred()
    reactor.callLater(0, done.callback, None)
    return done


def _frame(data: bytes) -> Script:
    return lambda primary, request: request.write(data)


def _cut(primary: FakePrimary, request: Any) -> None:
    request.write(encode_frame(encode_tail(primary.page(2)), None, 3)[:-7])
    request.channel.loseConnection()


def _half(primary: FakePrimary, request: Any) -> None:
    request.write(encode_frame(encode_tail(primary.page(2)), None, 3)[:-7])
    request.finish()


def _forged(primary: FakePrimary, request: Any) -> None:
    good = primary.page(2)
    at = good.checkpoint.rindex(b" ") + 20
    letter = b"B" if good.checkpoint[at : at + 1] == b"A" else b"A"
    note = good.checkpoint[:at] + letter + good.checkpoint[at + 1 :]
    request.write(encode_frame(encode_tail(TailPage(good.entries, note)), None, 3))


HOSTILE: dict[str, tuple[Script, State, str]] = {
    "cut": (_cut, State.PRIMARY_UNREACHABLE, ""),
    "half a frame": (_half, State.PRIMARY_UNREACHABLE, "in the middle of a page"),
    "unknown kind": (_frame(FRAME.pack(9, 3, 0)), State.BAD_ANSWER, "a frame of kind 9"),
    "too long": (_frame(FRAME.pack(1, 3, PAGE_LIMIT + 1)), State.BAD_ANSWER, "with 1048577 bytes"),
    "tell with bytes": (_frame(FRAME.pack(TELL, 3, 1)), State.BAD_ANSWER, "kind 0 with 1 bytes"),
    "not a page": (_frame(encode_frame(b"hello", None, 3)), State.BAD_ANSWER, "has no end"),
    "no zstd": (_frame(encode_frame(b"hello", "zstd", 3)), State.BAD_ANSWER, "not decompress"),
    "forged": (_forged, State.BAD_ANSWER, "signature is wrong"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest_twisted.ensureDeferred
async def test_hostile_streams(name: str, tmp_path: Path) -> None:
    """A stream that breaks off, or is none, changes nothing, and says why; then all goes on."""
    script, state, why = HOSTILE[name]
    async with following(tmp_path, log_of("ann")) as it:
        stream = await begun(it)
        before = it.facts()
        it.primary.log += entries([user_set("bob")], 3)
        script(it.primary, stream.open[-1])
        await it.failed()
        assert it.facts() == before
        assert it.state is state
        assert why in (it.follower.following.last_error or "")
        it.primary.script = None
        it.retry()
        await it.reach(3)


@pytest_twisted.ensureDeferred
async def test_streams_that_end_at_once(tmp_path: Path) -> None:
    """A way on which no page ever comes does not count as one that works."""

    def nothing(primary: FakePrimary, request: Any) -> None:
        request.setHeader("Content-Type", STREAM_TYPE)
        request.finish()

    async with following(tmp_path, log_of("ann")) as it:
        await it.in_sync()
        it.primary.turn(nothing)
        await it.failed()
        assert it.state is State.PRIMARY_UNREACHABLE
        assert "ends its answers at once" in (it.follower.following.last_error or "")


def test_when_the_primary_is_told() -> None:
    """After a pause, but while pages keep coming, at times all the same."""
    untold = Untold()
    assert untold.quiet_seconds(10.0) is None
    untold.came(10.0)
    untold.came(10.9)
    assert untold.quiet_seconds(10.0) == QUIET_SECONDS
    assert untold.quiet_seconds(10.9) == pytest.approx(0.1)
    assert untold.quiet_seconds(11.1) == 0.0
    untold.told()
    assert untold.quiet_seconds(11.0) is None


@pytest_twisted.ensureDeferred
async def test_a_stream_that_says_nothing(tmp_path: Path) -> None:
    """It has to end in the time that a poll has."""
    async with following(tmp_path, log_of("ann")) as it:
        await begun(it)
        it.asking.advance(POLL_TIMEOUT_SECONDS)
        await it.failed()
        assert it.state is State.PRIMARY_UNREACHABLE


@define(eq=False)
class _Request:
    """What a stream writes to."""

    written: list[bytes] = field(factory=list)
    lost: bool = False
    aborted: bool = False
    producer: Any = None
    headers: dict[str, str] = field(factory=dict)

    def setHeader(self, name: str, value: str) -> None:
        self.headers[name] = value

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    @property
    def channel(self) -> _Request:
        return self

    def forceAbortClient(self) -> None:
        self.aborted = True

    def ends(self) -> list[int]:
        """The frames: where each page ends; -1 for "say how far you are"."""
        frames = [one for one in self.written if one]
        return [-1 if one[0] == TELL else int(one[FRAME.size :]) for one in frames]


@define(eq=False)
class _Admission:
    revoked: bool = False

    def require_admitted(self, node: str) -> None:
        if self.revoked:
            raise AuthenticationRequired("revoked")


def at(size: int) -> Frontier:
    return Frontier(size, (bytes(32),) * size.bit_count())


@define(eq=False)
class Primary:
    """Streams on a clock that the test moves; a page's body is the size where it ends."""

    clock: Clock = field(factory=Clock)
    admission: _Admission = field(factory=_Admission)
    request: _Request = field(factory=_Request)
    position: Position = field(init=False)
    polls: Polls = field(init=False)
    acks: Acks = field(init=False)
    streams: Streams = field(init=False)
    question: Asked = field(init=False)

    def __attrs_post_init__(self) -> None:
        clock = as_clock(self.clock)
        self.position = Position(clock, Head(7, 1, bytes(32), None))
        self.polls, self.acks = Polls(self.position), Acks(clock, cast(Any, None))
        self.streams = Streams(clock, self.position, self.polls, cast(Any, self.admission))
        self.acks.on_wait = self.streams.tell
        self.question = Asked(7, bytes(32), 1, 25.0, None, streams=True)
        self.acks.cosigned(NODE, 7, 7)

    def send(self, first: Page | None = None) -> Deferred[None]:
        return Deferred.fromCoroutine(
            self.streams.send(NODE, cast(Any, self.request), self.question, self._behind, first)
        )

    async def _behind(self, question: Asked) -> Page:
        end = self.position.serial
        return Page(question.root, b"%d" % end, None, at(end))

    def commit(self) -> None:
        serial = self.position.serial + 1
        self.position.advance(Head(serial, 1, bytes(32), None), Touched())

    def told(self, serial: int = 0) -> None:
        """The follower says that it has all, or up to a serial."""
        self.acks.cosigned(NODE, serial or self.position.serial, 0)
        self.streams.heard(NODE, serial or self.position.serial)


def test_pages_until_the_time_is_over() -> None:
    """Each commit is a page; an empty one is the last."""
    it = Primary()
    done = it.send()
    assert it.request.headers == {
        "Content-Type": STREAM_TYPE, "Cache-Control": "no-store", "X-Accel-Buffering": "no",
    }  # fmt: skip
    for _ in range(3):
        it.commit()
        it.told()
        it.clock.advance(4)
    assert it.request.ends() == [8, 9, 10]
    it.clock.advance(13)
    assert done.called
    assert it.request.ends() == [8, 9, 10, 10]
    assert it.request.producer is None
    assert it.streams.suits(NODE, it.question)


def test_who_is_waited_for_is_told_so() -> None:
    """Followers are asked for their position behind the page that somebody waits for."""
    it = Primary()
    it.send()
    it.commit()
    waits = Deferred.fromCoroutine(it.acks.reached(8, 1, with_files=False))
    assert it.request.ends() == [8, -1]
    Deferred.fromCoroutine(it.acks.reached(9, 1, with_files=False))
    assert it.request.ends() == [8, -1]
    it.commit()
    assert it.request.ends() == [8, -1, 9, -1]
    assert not waits.called
    it.told()
    assert waits.called


def test_a_follower_that_reads_slowly() -> None:
    """What is written for it stays bounded: the next page waits until the last has left."""
    it = Primary()
    done = it.send()
    it.request.producer.pauseProducing()
    for _ in range(3):
        it.commit()
    assert it.request.ends() == [8]
    it.request.producer.resumeProducing()
    assert it.request.ends() == [8, 10]
    it.request.producer.pauseProducing()
    it.commit()
    it.commit()
    it.polls.stop()
    it.streams.stop()
    assert done.called
    assert it.request.ends() == [8, 10, 11]


def test_a_follower_that_is_behind() -> None:
    """It gets page after page, until the time is over that it would wait for one."""
    it = Primary()
    it.position.advance(Head(9, 1, bytes(32), None), Touched())
    done = it.send(Page(bytes(32), b"8", None, at(8)))
    assert it.request.ends() == [8, 9]
    it.request.producer.pauseProducing()
    it.told()
    it.commit()
    assert it.request.ends() == [8, 9, 10]
    it.commit()
    it.clock.advance(26)
    assert it.request.ends() == [8, 9, 10]
    it.request.producer.resumeProducing()
    assert it.request.ends() == [8, 9, 10, 11]
    assert done.called


def test_a_front_that_collects_answers() -> None:
    """Who says nothing of a page gets the rest of it, and single pages for a while."""
    it = Primary()
    done = it.send()
    it.commit()
    it.clock.advance(CONFIRM_SECONDS - 0.1)
    assert it.request.ends() == [8]
    it.clock.advance(0.2)
    assert it.request.ends() == [8, 8]
    assert done.called
    assert not it.streams.suits(NODE, it.question)
    it.clock.advance(600)
    assert it.streams.suits(NODE, it.question)


def test_who_confirms_late_goes_on() -> None:
    """Only who has said nothing of a page after five seconds is taken off its stream."""
    it = Primary()
    done = it.send()
    it.commit()
    it.clock.advance(CONFIRM_SECONDS - 0.1)
    it.told()
    it.clock.advance(1)
    it.commit()
    assert not done.called
    assert it.request.ends() == [8, 9]


def test_who_is_busy_is_not_silent() -> None:
    """A follower that has megabytes to apply says how far it is, again and again."""
    it = Primary()
    it.send()
    it.commit()
    it.commit()
    for _ in range(5):
        it.clock.advance(CONFIRM_SECONDS - 0.1)
        it.told(8)
    assert it.request.ends() == [8, 9]
    it.clock.advance(1)
    assert it.request.ends() == [8, 9, 9]
    assert it.streams.suits(NODE, it.question)


def test_a_front_that_collects_answers_of_a_busy_primary() -> None:
    """Commits do not make up for what the follower does not say."""
    it = Primary()
    done = it.send()
    for _ in range(3):
        it.commit()
        it.clock.advance(2)
    assert done.called
    assert not it.streams.suits(NODE, it.question)


def test_a_follower_that_hangs() -> None:
    """One that reads nothing at all is hung up on; so is the oldest stream of three."""
    it = Primary()
    done = it.send()
    it.request.producer.pauseProducing()
    it.commit()
    it.told()
    it.clock.advance(POLL_TIMEOUT_SECONDS)
    assert done.called
    assert it.request.aborted

    it = Primary()
    first = it.send()
    it.request.producer.pauseProducing()
    it.commit()
    assert [first.called, it.send().called] == [False, False]
    it.send()
    assert first.called


def test_all_are_woken() -> None:
    """A stream looks at once whether it may go on, also while a page is not confirmed."""
    it = Primary()
    done = it.send()
    it.commit()
    it.position.wake_all()
    assert done.called
    assert it.request.ends() == [8, 8]
    assert it.streams.suits(NODE, it.question)


def test_no_room() -> None:
    """Who is one too many is told so, instead of a stream."""
    it = Primary()
    it.polls.most = 0
    errors: list[Any] = []
    it.send().addErrback(lambda failure: errors.append(failure.type))
    assert errors == [TooManyRequests]
    assert it.request.headers == {}


def test_streams_end() -> None:
    """With the node, with a third poll of theirs, and with their node's admission."""
    it = Primary()
    done = it.send()
    it.polls.stop()
    assert done.called
    assert it.request.ends() == []

    it = Primary()
    first, second, third = it.send(), it.send(), it.send()
    assert [one.called for one in (first, second, third)] == [True, False, False]

    it = Primary()
    done = it.send()
    it.admission.revoked = True
    it.polls.end(lambda node: True)
    assert done.called
    assert it.request.ends() == []
