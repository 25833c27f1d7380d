"""Writes that go through a replica: when their answers do."""

from __future__ import annotations

from typing import Any, cast

import pytest
import pytest_twisted
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers

from cluster.errors import Unavailable
from cluster.log.merkle import Frontier
from cluster.protocol import SERIAL_HEADER
from cluster.state.position import Head, Position
from cluster.state.rows import Touched
from cluster.web.replies import Reply
from cluster.web.request import NodeRequest
from replica.following import Following, State
from replica.forwarding import Forwarding
from tests.fakes import as_clock


@define
class Answer:
    """A whole answer of the primary to a write, which is entry 5."""

    code: int = 200
    phrase: bytes = b"OK"
    length: int = 6
    headers: Headers = field(factory=lambda: Headers({SERIAL_HEADER: ["5"]}))

    def deliverBody(self, protocol: Any) -> None:
        """All of it at once."""
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(b"stored")
        protocol.connectionLost(Failure(ResponseDone()))


@define
class Primary:
    """Answers when it is told to; a replica's client of it, and what that asks of a request."""

    answer: Deferred[Answer] = field(factory=Deferred)

    async def send(self, *_: object) -> Answer:
        """As `PrimaryClient.send`."""
        return await self.answer

    def headers(self, *_: object) -> dict[str, str]:
        """As `PrimaryClient.headers`."""
        return {}

    def address(self, _: object) -> str:
        """As `Identity.address`."""
        return "192.0.2.1"


@define
class Request:
    """A PUT."""

    method: bytes = b"PUT"
    uri: bytes = b"/root/dev"
    path: bytes = b"/root/dev"
    content: Any = field(factory=lambda: type("Body", (), {"read": lambda _: b"{}"})())

    def header(self, name: str) -> str | None:
        """None of a client's matters."""
        return "http://r.example" if name == "Host" else None


@define
class Replica:
    """Forwarding on a replica at serial 4, and its parts."""

    clock: Clock = field(factory=Clock)
    primary: Primary = field(factory=Primary)
    following: Following = field(factory=lambda: Following(State.IN_SYNC))
    position: Position = field(init=False)
    forwarding: Forwarding = field(init=False)

    def __attrs_post_init__(self) -> None:
        clock, primary = as_clock(self.clock), cast(Any, self.primary)
        self.position = Position(clock, Head(4, 1, Frontier().root, None))
        self.forwarding = Forwarding(
            primary, self.position, clock, lambda: None, "http://r.example", primary, "own",
            lambda: self.following,
        )  # fmt: skip

    def write(self) -> Deferred[Reply]:
        """A client's write, up to what the primary says."""
        return Deferred.fromCoroutine(self.forwarding.small(cast(NodeRequest, Request())))

    def apply(self) -> None:
        """The entry is here."""
        self.position.advance(Head(5, 1, Frontier().root, None), Touched())

    def pass_time(self, seconds: float) -> None:
        """In steps, as timers are set by other timers."""
        for _ in range(int(seconds * 4)):
            self.clock.advance(0.25)


def answered(done: Deferred[Reply]) -> bool:
    """Whether a client has its answer."""
    return bool(done.called)


@pytest_twisted.ensureDeferred
async def test_held_until_it_is_here() -> None:
    """A client reads its own write here, when its answer comes; 30 s are the most."""
    replica = Replica()
    done = replica.write()
    replica.primary.answer.callback(Answer())
    replica.pass_time(10)
    assert not answered(done)
    replica.apply()
    assert answered(done)
    assert (await done).body == b"stored"
    late = Replica()
    done = late.write()
    late.primary.answer.callback(Answer())
    late.pass_time(29)
    assert not answered(done)
    late.pass_time(2)
    assert (await done).status == 200
    assert late.clock.getDelayedCalls() == []


@pytest.mark.parametrize("state", [State.NEEDS_UPGRADE, State.DIVERGED, State.NOT_ADMITTED])
@pytest_twisted.ensureDeferred
async def test_what_is_never_applied_here(state: State) -> None:
    """A replica that applies nothing any more passes on what the primary says at once, also when
    it is this write that it cannot apply."""
    stuck = Replica(following=Following(state))
    done = stuck.write()
    stuck.primary.answer.callback(Answer())
    assert answered(done)
    assert (await done).headers[SERIAL_HEADER] == "5"
    by_this = Replica()
    done = by_this.write()
    by_this.primary.answer.callback(Answer())
    by_this.pass_time(0.25)
    by_this.following = Following(state)
    by_this.pass_time(0.5)
    assert answered(done)


@pytest_twisted.ensureDeferred
async def test_what_is_stored_is_said() -> None:
    """A primary that took its time does not make its answer to "nothing is known to be stored"."""
    replica = Replica()
    done = replica.write()
    replica.pass_time(50)
    replica.primary.answer.callback(Answer())
    replica.pass_time(31)
    assert (await done).status == 200
    replica = Replica()
    silent = replica.write()
    replica.pass_time(61)
    with pytest.raises(Unavailable, match="nothing is known to be stored"):
        await silent


@pytest_twisted.ensureDeferred
async def test_a_node_that_goes_down() -> None:
    """Who waits for a serial is answered at once at the end of the process."""
    replica = Replica()
    done = replica.write()
    replica.primary.answer.callback(Answer())
    replica.pass_time(1.25)
    assert not answered(done)
    replica.position.wake_all()
    assert answered(done)
    assert (await done).status == 200
