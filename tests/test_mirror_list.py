"""A mirror's project list: what it loses is recorded, unless it loses most of it at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from attrs import define, evolve, field
from sqlalchemy import select
from twisted.internet.defer import Deferred

from cluster.log.changes import Change, Kind
from cluster.model import MirrorIndex
from cluster.state.database import Database
from cluster.state.freshness import Freshness, Outcome
from cluster.state.options import to_options
from cluster.state.schema import listing
from cluster.threads import Inline
from cluster.upstream.client import Page
from cluster.upstream.health import UpstreamHealth
from primary.mirroring.listing import MASS_REMOVAL, ListRefresher
from primary.mirroring.refresh import UpstreamRefresher
from primary.writer import Writer
from tests.fakes import NOW, START, database, writer
from tests.strategies import mirror

LARGE = 2_500
TYPE = "application/vnd.pypi.simple.v1+json"


@define
class Client:
    """An upstream that lists `names`, as an `UpstreamClient` tells of it."""

    asked: list[str] = field(factory=list)
    names_now: int = 0

    async def names(self, index: MirrorIndex, known: Freshness | None, sink: Any) -> Page:
        """Stream the list into the sink."""
        url = index.mirror_url or ""
        self.asked.append(url)
        rows = [{"name": f"Project_{number}"} for number in range(self.names_now)]
        sink.write(json.dumps({"projects": rows}).encode())
        return Page(url, url, b"", TYPE, '"etag"', None, None)


@define
class Site:
    """A mirror, the primary's part that asks, and what is known of the list's freshness."""

    database: Database
    writer: Writer
    scratch: Path
    client: Client = field(factory=Client)
    known: Freshness | None = None
    index: MirrorIndex = field(factory=mirror)
    health: UpstreamHealth = field(factory=lambda: UpstreamHealth(lambda: NOW))

    async def set(self, **options: Any) -> None:
        """Change the index."""
        self.index = evolve(self.index, **options)
        payload = {"index": self.index.name, "type": "mirror", "options": to_options(self.index)}
        await self.writer.write("root", lambda c: [Change(Kind.INDEX_SET, payload)])

    async def list(self, names: int) -> Freshness:
        """The upstream lists so many names, and is asked."""
        self.client.names_now = names
        client = cast(Any, self.client)
        lists = ListRefresher(
            client, self.writer, self.database, Inline(), self.scratch, lambda: NOW
        )
        refresher = UpstreamRefresher(
            client, self.writer, self.database, Inline(), self.health, lists, lambda: NOW
        )
        self.known = (await refresher.refresh(self.index, "", self.known)).freshness
        return self.known

    def recorded(self) -> int:
        """How many names the state has."""
        with self.database.engine.begin() as connection:
            rows = connection.execute(select(listing.c.name).where(listing.c.present == 1))
            return len(rows.fetchall())

    def failing(self) -> dict[str, Any]:
        """What the status says of the list."""
        document = self.health.document()[self.index.name]
        failing: dict[str, Any] = document["failing"].get("(project list)", {})
        return failing


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with database() as made:
        site = Site(made, writer(made), tmp_path)
        Deferred.fromCoroutine(site.writer.write("+bootstrap", lambda c: [START]))
        Deferred.fromCoroutine(site.set())
        yield site


@pytest_twisted.ensureDeferred
async def test_mass_removal_is_not_recorded(site: Site) -> None:
    """A list that lost most of its names leaves the log as it was; status says what happened,
    since when, and what to do; the upstream's recovery ends it."""
    assert (await site.list(LARGE)).error is None
    before = site.known
    for names in (1, 1, LARGE // 2 - 1):
        answer = await site.list(names)
        assert answer.outcome is Outcome.ERROR
        assert before is not None
        assert (answer.etag, answer.succeeded_at) == (before.etag, before.succeeded_at)
        assert site.recorded() == LARGE
    failing = site.failing()
    assert f"lost {LARGE // 2 + 1:,} of {LARGE:,} projects" in failing["error"]
    assert f"mirror_allow_mass_removal=true on {site.index.name}" in failing["error"]
    assert failing["since"] == "2023-11-14T22:13:20Z"
    assert (await site.list(LARGE + 1)).outcome is Outcome.FOUND
    assert (site.recorded(), site.failing()) == (LARGE + 1, {})


@pytest.mark.parametrize(
    ("before", "after"),
    [(LARGE, LARGE // 2), (MASS_REMOVAL, 1), (LARGE, LARGE - MASS_REMOVAL), (1, LARGE)],
)
@pytest_twisted.ensureDeferred
async def test_smaller_removals_are_recorded(site: Site, before: int, after: int) -> None:
    """Half of the names, or a thousand, may go at once, and any number may come."""
    await site.list(before)
    assert (await site.list(after)).outcome is Outcome.FOUND
    assert (site.recorded(), site.failing()) == (after, {})


@pytest_twisted.ensureDeferred
async def test_mass_removal_can_be_allowed(site: Site) -> None:
    """The owner who knows better sets an option, and the names go."""
    await site.list(LARGE)
    assert (await site.list(1)).error
    await site.set(mirror_allow_mass_removal=True)
    assert (await site.list(1)).error is None
    assert (site.recorded(), site.failing()) == (1, {})


@pytest_twisted.ensureDeferred
async def test_another_upstream_has_other_names(site: Site) -> None:
    """The names of another `mirror_url` replace those of the one before, however few they are;
    but not if it is not known whose the names are, as after the loss of what is local."""
    await site.list(LARGE)
    known, site.known = site.known, None
    assert (await site.list(1)).error
    await site.set(mirror_url="https://other.example/simple/")
    site.known = known
    assert (await site.list(1)).error is None
    assert site.recorded() == 1
