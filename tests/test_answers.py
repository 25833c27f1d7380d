"""Each answer that is no page leads to a named state whose message says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from cluster.protocol import VIA_HEADER
from replica.following import State
from tests.fake_primary import FakePrimary, Script
from tests.fakes import user_set
from tests.test_follower import NODE, following, log_of


def answer(code: int, **headers: str) -> Script:
    """Answer a poll with a status and headers."""

    def send(primary: FakePrimary, request: Any) -> None:
        request.setResponseCode(code)
        for name, value in headers.items():
            request.setHeader(name.replace("_", "-"), value)
        primary.send_body(request, b"no", "text/plain")

    return send


@pytest.mark.parametrize(
    ("code", "state", "advice"),
    [
        (401, State.NOT_ADMITTED, "compare the secret files and the clocks"),
        (412, State.OTHER_LOG, "point --primary-url"),
        (421, State.NOT_PRIMARY, "421"),
        (426, State.NEEDS_UPGRADE, "upgrade this replica"),
        (429, State.PRIMARY_UNREACHABLE, "429"),
        (503, State.PRIMARY_UNREACHABLE, "503"),
        (508, State.LOOP, "508"),
        (404, State.BAD_ANSWER, "404"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_named_states(tmp_path: Path, code: int, state: State, advice: str) -> None:
    """The state is named, nothing changes, and following goes on when the answers are good."""
    async with following(tmp_path, log_of("ann")) as it:
        await it.in_sync()
        before = it.facts()
        it.primary.turn(answer(code))
        await it.failed()
        assert it.state is state
        assert advice in str(it.follower.following.last_error)
        assert it.facts() == before
        it.primary.turn(None)
        it.primary.record(user_set("bob"))
        it.retry()
        await it.reach(3)


@pytest.mark.parametrize(("said", "seconds"), [("25", 25.0), ("86400", 60.0), ("soon", 0.0)])
@pytest_twisted.ensureDeferred
async def test_retry_after(tmp_path: Path, said: str, seconds: float) -> None:
    """The pause is as long as the primary asks for, but never longer than a minute."""
    async with following(tmp_path, log_of("ann")) as it:
        await it.in_sync()
        it.primary.turn(answer(503, Retry_After=said))
        await it.failed()
        await it.paused(lambda: bool(it.pauses.getDelayedCalls()))
        pause: Any = it.pauses.getDelayedCalls()[0]
        if seconds:
            assert pause.getTime() - it.pauses.seconds() == seconds
        else:
            assert pause.getTime() - it.pauses.seconds() <= 10.0


@pytest.mark.parametrize("chain", [f"a,{NODE}", ",".join("abcdefgh")])
@pytest_twisted.ensureDeferred
async def test_a_chain_that_loops(tmp_path: Path, chain: str) -> None:
    """A page that came through this node, or through too many, is not applied."""

    def looped(primary: FakePrimary, request: Any) -> None:
        request.setHeader(VIA_HEADER, chain)
        primary.send(request, primary.page(int(request.args[b"from"][0])))

    async with following(tmp_path, log_of("ann")) as it:
        await it.in_sync()
        before = it.facts()
        it.primary.log += log_of("ann", "bob").log[2:]
        it.primary.turn(looped)
        await it.failed()
        assert it.state is State.LOOP
        assert it.facts() == before
