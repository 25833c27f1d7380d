"""Reading an upstream's answer: what happens to the connection of one that never ends."""

from __future__ import annotations

from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred

from cluster.upstream.client import read_body


class Endless:
    """A response whose body begins and never ends, and its own transport."""

    def __init__(self) -> None:
        self.aborted = False

    def deliverBody(self, protocol: Any) -> None:
        protocol.makeConnection(self)
        protocol.dataReceived(b"a")

    def abortConnection(self) -> None:
        self.aborted = True


@pytest_twisted.ensureDeferred
async def test_giving_up_closes_the_connection() -> None:
    """A body that trickles for ever holds no connection after its time is over."""
    response = Endless()
    reading = Deferred.fromCoroutine(read_body(cast(Any, response), 1_000))
    reading.cancel()
    with pytest.raises(CancelledError):
        await reading
    assert response.aborted
