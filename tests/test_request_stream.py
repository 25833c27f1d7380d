"""The body of a request on its way to who takes it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import pytest_twisted
from attrs import define
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import provider  # type: ignore[attr-defined]

from cluster.errors import InvalidRequest
from cluster.web.body import RequestStream


class Connection:
    """Is never slow."""

    def pauseProducing(self) -> None:
        """Nothing to do."""

    def resumeProducing(self) -> None:
        """Nothing to do."""


@define
class Refusing:
    """A consumer that finds the first bytes wrong."""

    stream: RequestStream

    def write(self, data: bytes) -> None:
        """Give up."""
        self.stream.abandon()


@pytest.fixture
def unhandled() -> Iterator[list[object]]:
    """What Twisted logs of failures that nobody took."""
    found: list[object] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        if "log_failure" in event:
            found.append(event["log_failure"])

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


@pytest_twisted.ensureDeferred
async def test_whole_body_is_refused(unhandled: list[object]) -> None:
    """A small body that came before its consumer and is wrong leaves no error behind that nobody
    handles: the consumer knows what was wrong."""
    stream = RequestStream(Connection(), 3)
    stream.feed(b"abc")
    stream.end()
    await stream.deliver(Refusing(stream))
    del stream
    gc.collect()
    assert unhandled == []


@pytest_twisted.ensureDeferred
async def test_half_a_body_is_refused() -> None:
    """One of which more is to come ends with an error."""
    stream = RequestStream(Connection(), 6)
    stream.feed(b"abc")
    with pytest.raises(InvalidRequest):
        await stream.deliver(Refusing(stream))
