"""When a mirror is asked, when it is waited for, and what is served meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cluster.model import MirrorIndex, ProjectStatus
from cluster.state import freshness
from cluster.state.freshness import Freshness, Outcome
from cluster.upstream.ondemand import (
    ABSENT_SECONDS,
    ERROR_SECONDS,
    KNOWN_WAIT_SECONDS,
    LIST_WAIT_SECONDS,
    WAIT_SECONDS,
    MirrorAnswer,
    OnDemand,
    absent,
    failure,
    renewed,
)
from cluster.upstream.parse import ParsedProject
from tests.fakes import NOW, as_clock, database
from tests.strategies import mirror

INDEX = mirror(mirror_cache_expiry=100, max_stale=1_000)


@define
class Asked:
    """One question that a refresher was asked; the test answers it."""

    index: MirrorIndex
    project: str
    known: Freshness | None
    answer: Deferred[MirrorAnswer] = field(factory=Deferred)


@define
class Refresher:
    """Keeps every question until the test answers it."""

    asked: list[Asked] = field(factory=list)

    async def refresh(
        self, index: MirrorIndex, project: str, known: Freshness | None
    ) -> MirrorAnswer:
        question = Asked(index, project, known)
        self.asked.append(question)
        return await question.answer


@define
class Site:
    """A mirror whose clock and wall clock the test moves."""

    refresher: Refresher
    clock: Clock
    ondemand: OnDemand = field(init=False)
    step: float = 0.0

    def now(self) -> float:
        """The wall clock: the monotonic one, and steps that somebody made."""
        return NOW + self.clock.seconds() + self.step

    def ensure(self, project: str = "foo", index: MirrorIndex = INDEX) -> Deferred[MirrorAnswer]:
        return Deferred.fromCoroutine(self.ondemand.ensure(index, project))

    def found(self) -> MirrorAnswer:
        return MirrorAnswer(Freshness(Outcome.FOUND, self.now(), self.now(), etag='"e"'))

    def seen(self, project: str = "foo") -> None:
        """The project was asked for, and found, just now."""
        done = self.ensure(project)
        self.refresher.asked.pop().answer.callback(self.found())
        assert value(done).outcome is Outcome.FOUND


@pytest.fixture
def site() -> Iterator[Site]:
    with database() as local:
        made = Site(Refresher(), Clock())
        made.ondemand = OnDemand(made.refresher, local, as_clock(made.clock), made.now)
        yield made


def value(of: Deferred[MirrorAnswer]) -> Freshness:
    """The freshness that an answered question came back with."""
    found: list[Any] = []
    of.addBoth(found.append)
    [answer] = found
    assert isinstance(answer, MirrorAnswer), answer
    return answer.freshness


def test_never_seen_waits(site: Site) -> None:
    """A project that was never seen is asked for, and waited for."""
    done = site.ensure()
    [question] = site.refresher.asked
    assert (question.project, question.known) == ("foo", None)
    assert not done.called
    question.answer.callback(site.found())
    assert value(done).outcome is Outcome.FOUND
    assert site.clock.getDelayedCalls() == []


@pytest.mark.parametrize("project", ["foo", ""])
def test_a_mirror_without_url_has_nothing(site: Site, project: str) -> None:
    """Until its URL is set a mirror is absent, nobody is asked, and nothing is remembered."""
    without = evolve(INDEX, mirror_url=None)
    assert value(site.ensure(project, without)) == Freshness(Outcome.ABSENT, NOW)
    assert site.refresher.asked == []
    assert not site.ensure(project).called
    assert len(site.refresher.asked) == 1


def test_fresh_is_served_without_a_question(site: Site) -> None:
    """Within its expiry nobody is asked, at the last moment either."""
    site.seen()
    site.clock.advance(99.9)
    assert value(site.ensure()).outcome is Outcome.FOUND
    assert site.refresher.asked == []


def test_stale_is_served_at_once_and_asked_meanwhile(site: Site) -> None:
    """Past its expiry but within max_stale, the old answer is served and a new one asked for."""
    site.seen()
    site.clock.advance(100.0)
    assert value(site.ensure()).checked_at == NOW
    [question] = site.refresher.asked
    assert question.known is not None
    assert question.known.etag == '"e"'
    question.answer.callback(site.found())
    assert value(site.ensure()).checked_at == NOW + 100.0
    assert len(site.refresher.asked) == 1


def test_older_waits(site: Site) -> None:
    """Beyond max_stale the answer is waited for."""
    site.seen()
    site.clock.advance(1_000.1)
    done = site.ensure()
    assert not done.called
    site.refresher.asked[0].answer.callback(site.found())
    assert value(done).checked_at == NOW + 1_000.1


def test_trouble_serves_what_is_here(site: Site) -> None:
    """An upstream that answers nothing usable: what is known of the last success stays."""
    site.seen()
    site.clock.advance(5_000.0)
    done = site.ensure()
    question = site.refresher.asked[0]
    question.answer.callback(MirrorAnswer(failure(question.known, site.now(), "down")))
    told = value(done)
    assert (told.outcome, told.error) == (Outcome.ERROR, "down")
    assert (told.succeeded_at, told.etag) == (NOW, '"e"')


def test_trouble_is_not_asked_again_at_once(site: Site) -> None:
    """After an error nobody is asked for a while; then what we have is served meanwhile."""
    site.seen()
    site.clock.advance(5_000.0)
    done = site.ensure()
    question = site.refresher.asked.pop()
    question.answer.callback(MirrorAnswer(failure(question.known, site.now(), "down")))
    value(done)
    site.clock.advance(ERROR_SECONDS - 0.1)
    assert value(site.ensure()).error == "down"
    assert site.refresher.asked == []
    site.clock.advance(0.1)
    assert value(site.ensure()).error == "down"
    assert len(site.refresher.asked) == 1


def test_absence_is_remembered_for_a_minute(site: Site) -> None:
    """A 404 is served for 60 s, or for the index's expiry if that is shorter."""
    for index, seconds in ((INDEX, ABSENT_SECONDS), (evolve(INDEX, mirror_cache_expiry=5), 5.0)):
        name = f"nope{seconds}"
        done = site.ensure(name, index)
        site.refresher.asked.pop().answer.callback(MirrorAnswer(absent(None, site.now())))
        assert value(done).outcome is Outcome.ABSENT
        site.clock.advance(seconds - 0.1)
        assert value(site.ensure(name, index)).outcome is Outcome.ABSENT
        assert site.refresher.asked == []
        site.clock.advance(0.1)
        assert not site.ensure(name, index).called
        site.refresher.asked.pop().answer.callback(MirrorAnswer(absent(None, site.now())))


def test_fifty_requests_are_one_question(site: Site) -> None:
    """All who wait for a project share one question; another project has its own."""
    waiting = [site.ensure() for _ in range(50)]
    other = site.ensure("bar")
    assert [q.project for q in site.refresher.asked] == ["foo", "bar"]
    site.refresher.asked[0].answer.callback(site.found())
    assert all(value(one).outcome is Outcome.FOUND for one in waiting)
    assert not other.called


def test_who_leaves_does_not_stop_the_question(site: Site) -> None:
    """A client that goes away takes neither the question nor the others with it."""
    gone, stays = site.ensure(), site.ensure()
    gone.addBoth(lambda result: None)
    gone.cancel()
    [question] = site.refresher.asked
    assert not question.answer.called
    question.answer.callback(site.found())
    assert value(stays).outcome is Outcome.FOUND
    assert value(site.ensure()).outcome is Outcome.FOUND
    assert len(site.refresher.asked) == 1


@pytest.mark.parametrize(
    ("project", "patience"),
    [("foo", WAIT_SECONDS), ("", LIST_WAIT_SECONDS), ("seen", KNOWN_WAIT_SECONDS)],
)
def test_patience_ends(site: Site, project: str, patience: float) -> None:
    """Who waits too long is served what is here, sooner where there is something; the question
    goes on, and its answer is kept."""
    if project == "seen":
        site.seen(project)
        site.clock.advance(5_000.0)
    late = site.ensure(project)
    site.clock.advance(patience - 0.1)
    assert not late.called
    site.clock.advance(0.1)
    told = value(late)
    assert (told.outcome, told.succeeded_at) == (
        Outcome.ERROR,
        NOW if project == "seen" else None,
    )
    assert told.error is not None
    assert "no answer" in told.error
    site.refresher.asked[0].answer.callback(site.found())
    assert value(site.ensure(project)).outcome is Outcome.FOUND
    assert len(site.refresher.asked) == 1


def test_a_clock_step_back_asks(site: Site) -> None:
    """After the wall clock went back nothing is fresh for hours that are not there: ask."""
    site.seen()
    site.step = -7_200.0
    done = site.ensure()
    assert not done.called
    site.refresher.asked[0].answer.callback(site.found())
    assert value(done).checked_at == NOW - 7_200.0
    assert value(site.ensure()).checked_at == NOW - 7_200.0


def test_a_clock_step_forward_asks(site: Site) -> None:
    """After the wall clock jumped ahead everything is old, which costs a question, no more."""
    site.seen()
    site.step = 30 * 86_400.0
    done = site.ensure()
    site.refresher.asked[0].answer.callback(site.found())
    assert value(done).outcome is Outcome.FOUND


def test_a_refresher_that_breaks(site: Site) -> None:
    """A bug in a refresher is an answer with an error, and the next request asks again."""
    done = site.ensure()
    site.refresher.asked.pop().answer.errback(ZeroDivisionError("a bug"))
    told = value(done)
    assert told.outcome is Outcome.ERROR
    assert "a bug" in str(told.error)
    assert not site.ensure().called


def test_unlogged_pages_are_not_remembered(site: Site) -> None:
    """A page that no log entry covers must not count as fresh: the next request asks again."""
    done = site.ensure()
    page = ParsedProject((), (), ProjectStatus(), None, ())
    site.refresher.asked.pop().answer.callback(MirrorAnswer(site.found().freshness, page))
    value(done)
    assert not site.ensure().called
    assert len(site.refresher.asked) == 1


def test_facts_survive_in_the_table(site: Site) -> None:
    """Every fact of an answer is read back as it was put."""
    full = Freshness(Outcome.ERROR, NOW, NOW - 5, "https://u.example/", '"e"', "date", 7, "oops")
    with database() as local:
        for fact in (full, Freshness(Outcome.ABSENT, NOW), evolve(full, outcome=Outcome.FOUND)):
            written = Deferred.fromCoroutine(
                local.write(lambda c, fact=fact: freshness.put(c, INDEX.name, "foo", fact))  # type: ignore[misc]
            )
            assert written.called
            read = Deferred.fromCoroutine(local.read(lambda c: freshness.get(c, INDEX.name, "foo")))
            found: list[Any] = []
            read.addCallback(found.append)
            assert found == [fact]


def test_old_absences_are_forgotten(site: Site) -> None:
    """What was never found is forgotten after a day; what once was found is not."""
    with database() as local, local.engine.begin() as connection:
        never, once = Freshness(Outcome.ABSENT, NOW), Freshness(Outcome.ABSENT, NOW, NOW - 9)
        freshness.put(connection, INDEX.name, "never", never)
        freshness.put(connection, INDEX.name, "once", once)
        freshness.forget_absent_before(connection, NOW)
        assert freshness.get(connection, INDEX.name, "never") == never
        freshness.forget_absent_before(connection, NOW + 1)
        assert freshness.get(connection, INDEX.name, "never") is None
        assert freshness.get(connection, INDEX.name, "once") == once


def test_renewed() -> None:
    """A 304 starts the expiry anew and ends an error; the validators stay."""
    before = Freshness(Outcome.ERROR, NOW, NOW - 50, etag='"e"', error="down")
    after = renewed(before, NOW + 10)
    assert (after.outcome, after.checked_at, after.succeeded_at) == (
        Outcome.FOUND, NOW + 10, NOW + 10,
    )  # fmt: skip
    assert (after.etag, after.error) == ('"e"', None)
