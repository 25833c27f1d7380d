"""Users, indexes and tokens that are remembered until they change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import pytest_twisted
from attrs import define, field
from twisted.internet.defer import Deferred

from cluster.errors import NotFound
from cluster.log.changes import Change, Kind
from cluster.model import HostedIndex
from cluster.names import IndexName
from cluster.state.database import Database
from cluster.state.directory import Directory
from cluster.threads import Runner
from tests.fakes import START, database, position, user_set, writer

DEV = IndexName("root/dev")


@define
class Late:
    """A runner that works at once, and whose answers wait for `deliver`."""

    held: list[Deferred[None]] = field(factory=list)

    async def run(self, f: Callable[..., Any], *args: Any) -> Any:
        result = f(*args)
        self.held.append(Deferred())
        await self.held[-1]
        return result

    def deliver(self) -> None:
        self.held.pop().callback(None)


def index_set(**options: object) -> Change:
    return Change(Kind.INDEX_SET, {"index": DEV, "type": "stage", "options": options})


@pytest_twisted.ensureDeferred
async def test_a_change_is_seen_once_its_writer_knows_of_it() -> None:
    """Users and indexes are read once, and again after a commit that changed, removed or made
    one.
    """
    with database() as of:
        at = position()
        write, directory = writer(of, at), Directory.following(of, at)
        await write.write("root", lambda c: [START, user_set("ann")])
        assert await directory.index(DEV) is None
        with pytest.raises(NotFound, match="root/dev"):
            await directory.index_or_404(DEV)
        await write.write("root", lambda c: [index_set(volatile=True)])
        first = await directory.index(DEV)
        assert await directory.index(DEV) is first
        assert await directory.user("ann") is await directory.user("ann")
        await write.write("root", lambda c: [index_set(volatile=False)])
        assert cast(HostedIndex, await directory.index(DEV)).volatile is False
        await write.write("root", lambda c: [Change(Kind.USER_REMOVED, {"user": "ann"})])
        assert await directory.user("ann") is None


@pytest_twisted.ensureDeferred
async def test_an_answer_that_was_overtaken_is_not_remembered() -> None:
    """What was read before a change, and comes after it, is not what is answered from then on."""
    with database() as of:
        at, readers = position(), Late()
        write = writer(of, at)
        await write.write("root", lambda c: [START, index_set(volatile=True)])
        directory = Directory.following(Database(of.engine, of.writer, cast(Runner, readers)), at)
        slow = Deferred.fromCoroutine(directory.index(DEV))
        await write.write("root", lambda c: [index_set(volatile=False)])
        readers.deliver()
        assert cast(HostedIndex, await slow).volatile is True
        again = Deferred.fromCoroutine(directory.index(DEV))
        readers.deliver()
        assert cast(HostedIndex, await again).volatile is False
