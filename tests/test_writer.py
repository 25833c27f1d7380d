"""Group commit: many writes, one transaction; one bad write, no other harmed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import define, field
from sqlalchemy import Connection, Engine, event
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from cluster.errors import Conflict, InvalidRequest, LogError, Unavailable
from cluster.log import changelog
from cluster.log.changes import Change, Kind
from cluster.log.merkle import Frontier, leaf_hash
from cluster.state import queries, schema
from cluster.state.apply import digest, rebuild
from cluster.state.database import Database, open_engine, writing
from cluster.state.position import Head, Position
from cluster.state.rows import Touched
from cluster.threads import Inline, Threads
from primary.writer import Writer, Written, timestamp
from tests.fakes import EPOCH, START, TIME, Gate, as_clock, engine, position, user_set, utc
from tests.fakes import writer as inline_writer


@define
class Site:
    """A writer whose transactions wait at a gate."""

    engine: Engine
    gate: Gate
    writer: Writer
    position: Position
    clock: Clock
    events: list[str] = field(factory=list)

    def write(self, *names: str) -> Deferred[Written]:
        return self.decide(lambda connection: [user_set(name) for name in names])

    def decide(self, decide: Callable[[Connection], Sequence[Change]]) -> Deferred[Written]:
        return Deferred.fromCoroutine(self.writer.write("ann", decide))

    def facts(self) -> tuple[Frontier, str, int]:
        with self.engine.begin() as connection:
            return changelog.frontier(connection), digest(connection), self.position.serial

    def users(self) -> list[str]:
        with self.engine.begin() as connection:
            return sorted(connection.execute(schema.users.select()).scalars())


@pytest.fixture
def site() -> Iterator[Site]:
    with engine() as of:
        gate, clock = Gate(), Clock()
        at = position(as_clock(clock))
        database = Database(of, gate, Inline())  # type: ignore[arg-type]
        yield Site(of, gate, Writer(database, at, EPOCH, Frontier(), now=utc), at, clock)
        assert gate.waiting == []


def result(of: Deferred[Any]) -> Any:
    """What a Deferred has fired with."""
    found: list[Any] = []
    of.addBoth(found.append)
    [value] = found
    return getattr(value, "value", value)


def test_waiting_writes_share_a_transaction(site: Site) -> None:
    """A hundred writes that wait behind one take one transaction, with gapless serials."""
    first = site.write("first")
    others = [site.write(f"user{n}") for n in range(100)]
    site.gate.open_all()
    assert site.gate.ran == 2
    serials = [result(one).serial for one in (first, *others)]
    assert serials == list(range(1, 102))
    assert site.position.serial == 101
    assert len(site.users()) == 101


def test_groups_are_bounded(site: Site) -> None:
    """A flood of writes is committed in groups, so that the first need not wait for the last."""
    writes = [site.write(f"user{n}") for n in range(600)]
    site.gate.open()
    site.gate.open()
    assert result(writes[100]).serial == 101
    assert not writes[599].called
    site.gate.open_all()
    assert result(writes[599]).serial == 600
    assert site.gate.ran == 4


def test_a_write_of_several_changes_has_the_last_serial(site: Site) -> None:
    """The serial in the answer is that after which everything of the write is there."""
    one, nothing, three = site.write("a"), site.write(), site.write("b", "c", "d")
    site.gate.open_all()
    assert result(one) == Written(1, True)
    assert result(nothing) == Written(1, False)
    written = result(three)
    assert written == Written(4, True)
    assert written.headers == {"X-Pymirror-Serial": "4", "X-Pymirror-Position": "1.4"}


def test_what_is_written_is_in_the_entry(site: Site) -> None:
    """An entry carries the writer's epoch, the moment and the actor."""
    site.write("ann")
    site.gate.open_all()
    with site.engine.begin() as connection:
        [entry] = changelog.entries(connection)
    assert (entry.serial, entry.epoch, entry.time, entry.actor) == (1, EPOCH, TIME, "ann")
    assert timestamp(utc()) == TIME


def refuse(connection: Connection) -> list[Change]:
    raise Conflict("that is taken")


def too_large(connection: Connection) -> list[Change]:
    return [user_set("half"), user_set("x" * 70_000)]


def malformed(connection: Connection) -> list[Change]:
    return [user_set("half"), Change(Kind.INDEX_SET, {"index": "root/dev"})]


def bug(connection: Connection) -> list[Change]:
    raise KeyError("oops")


def scribble(connection: Connection) -> list[Change]:
    connection.execute(schema.users.insert().values(name="ghost", body=b"{}", serial=9))
    raise Conflict("after having written")


def broken_sql(connection: Connection) -> list[Change]:
    connection.exec_driver_sql("INSERT INTO nowhere VALUES (1)")
    return []


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (refuse, Conflict),
        (too_large, InvalidRequest),
        (malformed, LogError),
        (bug, KeyError),
        (scribble, Conflict),
        (broken_sql, Unavailable),
    ],
)
def test_one_bad_write_fails_alone(
    site: Site, bad: Callable[[Connection], list[Change]], error: type[Exception]
) -> None:
    """An error in one write is raised there; it leaves no trace and no gap, the others go on."""
    blocker = site.write("blocker")
    before, wrong, after = site.write("before"), site.decide(bad), site.write("after")
    site.gate.open_all()
    assert isinstance(result(wrong), error)
    assert [result(w).serial for w in (blocker, before, after)] == [1, 2, 3]
    assert site.users() == ["after", "before", "blocker"]
    with writing(site.engine) as connection:
        live = digest(connection)
        rebuild(connection)
        assert digest(connection) == live
        assert changelog.frontier(connection) == site.writer.frontier


def test_later_writes_see_earlier_ones(site: Site) -> None:
    """In one transaction, each decision sees what those before it changed."""
    seen: list[bool] = []

    def once(connection: Connection) -> list[Change]:
        seen.append(queries.user(connection, "ann") is not None)
        return [] if seen[-1] else [user_set("ann")]

    site.write("blocker")
    first, second = site.decide(once), site.decide(once)
    site.gate.open_all()
    assert seen == [False, True]
    assert (result(first), result(second)) == (Written(2, True), Written(2, False))


def read_only(of: Engine) -> Callable[[], None]:
    def switch(value: str) -> None:
        with of.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA query_only={value}")

    switch("ON")
    return lambda: switch("OFF")


def failing_insert(of: Engine) -> Callable[[], None]:
    """Each insert fails by itself; SQLite keeps the transaction."""
    return trigger(of, "ABORT")


def lost_transaction(of: Engine) -> Callable[[], None]:
    """SQLite rolls the whole transaction back by itself, as it does on a full disk."""
    return trigger(of, "ROLLBACK")


def trigger(of: Engine, action: str) -> Callable[[], None]:
    with writing(of) as connection:
        connection.exec_driver_sql(
            f"CREATE TRIGGER no BEFORE INSERT ON log BEGIN SELECT RAISE({action}, 'no'); END"
        )

    def heal() -> None:
        with writing(of) as connection:
            connection.exec_driver_sql("DROP TRIGGER no")

    return heal


def failing_commit(of: Engine) -> Callable[[], None]:
    def refuse(connection: Connection) -> None:
        raise OSError(28, "No space left on device")

    event.listen(of, "commit", refuse)
    return lambda: event.remove(of, "commit", refuse)


@pytest.mark.parametrize("fault", [read_only, failing_insert, lost_transaction, failing_commit])
def test_a_commit_that_fails_is_acknowledged_to_nobody(
    site: Site, fault: Callable[[Engine], Callable[[], None]]
) -> None:
    """All in the group get Unavailable, nothing moved, and writing goes on when it can."""
    site.write("good")
    site.gate.open_all()
    before, listened = site.facts(), list[int]()
    site.position.listen(lambda head, touched: listened.append(head.serial))
    heal = fault(site.engine)
    writes = [site.write("a"), site.write("b"), site.write("c")]
    site.gate.open_all()
    assert all(isinstance(result(one), Unavailable) for one in writes)
    heal()
    assert site.facts() == before
    assert listened == []
    again = site.write("a")
    site.gate.open_all()
    assert result(again) == Written(2, True)


def test_errors_for_clients_hold_no_parameters(site: Site) -> None:
    """The text of a failed write shows nobody the statement, which may hold others' changes."""
    heal = failing_insert(site.engine)
    wrong = site.write("secret-name")
    site.gate.open_all()
    heal()
    assert str(result(wrong)) == "the change could not be stored: no"


def test_stop_finishes_what_was_accepted(site: Site) -> None:
    """After stop() new writes are refused at once; those before it end as usual."""
    accepted = [site.write(f"user{n}") for n in range(3)]
    stopped = Deferred.fromCoroutine(site.writer.stop())
    refused = site.write("late")
    assert isinstance(result(refused), Unavailable)
    stopped_at: list[int] = []
    stopped.addCallback(lambda _: stopped_at.append(site.position.serial))
    assert stopped_at == []
    site.gate.open_all()
    assert [result(one).serial for one in accepted] == [1, 2, 3]
    assert stopped_at == [3]
    assert "late" not in site.users()


def test_stop_of_an_idle_writer(site: Site) -> None:
    """A writer with nothing to do stops at once, also after it had something to do."""
    site.write("a")
    site.gate.open_all()
    assert Deferred.fromCoroutine(site.writer.stop()).called


def test_listeners_before_waiters_before_writers(site: Site) -> None:
    """Caches hear of a commit first, then who waits for the serial, then who wrote."""
    site.position.listen(lambda head, touched: site.events.append(f"cache {head.serial}"))

    async def wait() -> None:
        await site.position.reached(1, 5.0)
        site.events.append(f"waiter at {site.position.serial}")

    waiting = Deferred.fromCoroutine(wait())
    site.write("a").addCallback(lambda written: site.events.append(f"writer {written.serial}"))
    site.gate.open_all()
    assert site.events == ["cache 1", "waiter at 1", "writer 1"]
    assert waiting.called


def test_listeners_hear_what_was_touched(site: Site) -> None:
    """One call for a whole group, with all that it touched and the head's facts."""
    heard: list[tuple[Head, Touched]] = []
    site.position.listen(lambda head, touched: heard.append((head, touched)))
    common = {"index": "root/pypi", "project": "foo"}
    site.decide(lambda c: [START])
    site.write("ann")
    site.decide(lambda c: [Change(Kind.MIRROR_PROJECT, common)])
    site.gate.open_all()
    assert len(heard) == 2
    head, touched = heard[-1]
    assert (head.serial, head.epoch, head.time) == (3, EPOCH, TIME)
    assert head.root == site.writer.frontier.root
    assert touched == Touched({"foo"}, {"root/pypi"}, indexes=True)


def test_a_listener_that_breaks(site: Site) -> None:
    """What is committed is acknowledged, and told to the others, whatever a listener does."""
    heard: list[int] = []

    def broken(*args: object) -> None:
        raise ZeroDivisionError

    site.writer.on_commit = broken
    site.position.listen(lambda head, touched: broken())
    site.position.listen(lambda head, touched: heard.append(head.serial))
    waiting = Deferred.fromCoroutine(site.position.reached(1, 5.0))
    written = site.write("ann")
    site.gate.open_all()
    assert result(written) == Written(1, True)
    assert result(waiting) is True
    assert heard == [1]


def test_what_followers_are_told_is_what_is_stored(site: Site) -> None:
    """The bytes that a commit hands to the feed are the log's, between its two frontiers."""
    told: list[tuple[Frontier, Sequence[bytes], Frontier]] = []
    site.writer.on_commit = lambda *facts: told.append(facts)
    site.write("a")
    site.write("b", "c")
    site.decide(refuse)
    site.write("d")
    site.gate.open_all()
    with site.engine.begin() as connection:
        log = [entry.raw for entry in changelog.entries(connection)]
        assert [raw for _, entries, _ in told for raw in entries] == log
        for before, entries, after in told:
            assert before.extended(leaf_hash(raw) for raw in entries) == after
            assert changelog.frontier(connection, after.size) == after


def test_nobody_hears_of_nothing(site: Site) -> None:
    """A write that changes nothing moves nothing."""
    heard: list[int] = []
    site.position.listen(lambda head, touched: heard.append(head.serial))
    nothing = site.write()
    site.gate.open_all()
    assert result(nothing) == Written(0, False)
    assert heard == []


def test_a_writer_who_left_still_writes(site: Site) -> None:
    """A client that goes away while its write waits does not take the write or others along."""
    gone, other = site.write("gone"), site.write("other")
    gone.addErrback(lambda failure: None)
    gone.cancel()
    site.gate.open_all()
    assert result(other).changed
    assert site.users() == ["gone", "other"]


def test_read_your_writes(site: Site) -> None:
    """`reached` is True when the serial is applied, False when that takes too long."""
    now = Deferred.fromCoroutine(site.position.reached(0, 5.0))
    soon = Deferred.fromCoroutine(site.position.reached(1, 5.0))
    late = Deferred.fromCoroutine(site.position.reached(9, 5.0))
    left = Deferred.fromCoroutine(site.position.reached(1, 5.0))
    left.addErrback(lambda failure: None)
    left.cancel()
    assert result(now) is True
    site.write("a")
    site.gate.open_all()
    assert result(soon) is True
    assert not late.called
    site.clock.advance(5.1)
    assert result(late) is False
    assert site.clock.getDelayedCalls() == []


def test_shutdown_wakes_who_waits(site: Site) -> None:
    """At the end of a node nobody is left waiting."""
    waiting = [Deferred.fromCoroutine(site.position.reached(n, 60.0)) for n in (1, 2, 3)]
    site.position.wake_all()
    assert [result(one) for one in waiting] == [False] * 3
    assert site.clock.getDelayedCalls() == []


def test_an_inline_writer_writes_again_and_again() -> None:
    """With work that is done at once (tools, tests) a second write is done too."""
    with engine() as of:
        writer = inline_writer(Database(of, Inline(), Inline()))
        for serial in (1, 2, 3):
            done = Deferred.fromCoroutine(writer.write("a", lambda c: [user_set("ann")]))
            assert result(done).serial == serial


def one_user(name: str) -> Callable[[Connection], list[Change]]:
    return lambda connection: [user_set(name)]


@asynccontextmanager
async def real_writer(folder: Path) -> AsyncIterator[tuple[Writer, Engine]]:
    """A writer on a file and a thread, as a primary has it."""
    of = open_engine(folder / "log.sqlite", changelog.metadata, schema.metadata)
    threads = Threads(reactor, 1, "writer")
    threads.start()
    try:
        yield Writer(Database(of, threads, threads), position(), EPOCH, Frontier(), now=utc), of
    finally:
        threads.stop()
        of.dispose()


@pytest_twisted.ensureDeferred
async def test_concurrent_writes_on_a_thread(tmp_path: Path) -> None:
    """500 concurrent writes on a real file take few transactions, and survive reopening."""
    async with real_writer(tmp_path) as (writer, of):
        commits: list[int] = []
        event.listen(of, "commit", lambda connection: commits.append(1))
        writes = [
            Deferred.fromCoroutine(writer.write("a", one_user(f"user{n}"))) for n in range(500)
        ]
        found = await gatherResults(writes)
        assert sorted(written.serial for written in found) == list(range(1, 501))
        assert len(commits) <= 4
        frontier = writer.frontier
        await writer.stop()
    again = open_engine(tmp_path / "log.sqlite", changelog.metadata, schema.metadata)
    with again.begin() as connection:
        assert changelog.frontier(connection) == frontier
    again.dispose()
