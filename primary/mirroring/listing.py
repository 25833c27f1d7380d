"""The project list of an upstream, with flat memory however many names it has.

The page streams to disk, its names into a scratch database, the difference to what the log last
said is worked out there, and goes to the log in small writes, so that uploads get their turn.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import define
from sqlalchemy import select

from cluster.errors import UpstreamError
from cluster.files.sink import HashingSink
from cluster.model import MirrorIndex
from cluster.names import IndexName, normalize
from cluster.state.database import Database
from cluster.state.freshness import Freshness, Outcome
from cluster.state.schema import listing
from cluster.threads import Runner
from cluster.upstream.client import Absent, NotModified, UpstreamClient
from cluster.upstream.ondemand import renewed
from cluster.upstream.parse import iter_names_html, iter_names_json
from primary.mirroring.delta import listing_changes
from primary.writer import Writer

MASS_REMOVAL = 1_000
"""Names: a list that loses more than so many, and more than half of all, is not believed."""
_NAMES_PER_WRITE = 5_000
_READ_BYTES = 1 << 18


@define
class ListRefresher:
    """Brings the logged project list of a mirror to what its upstream lists."""

    _client: UpstreamClient
    _writer: Writer
    _database: Database
    _runner: Runner
    _scratch: Path
    _now: Callable[[], float]

    async def refresh(self, index: MirrorIndex, known: Freshness | None) -> Freshness:
        """Fetch the list if it changed, and log what it adds and removes.

        Raises UpstreamError, and logs nothing, if that is no list, or most of it is gone.
        """
        if index.mirror_no_project_list:
            return Freshness(Outcome.FOUND, self._now(), self._now())
        with TemporaryDirectory(dir=self._scratch, prefix="list-") as folder:
            page_path = Path(folder) / "page"
            sink = HashingSink.create(page_path, self._runner)
            try:
                answer = await self._client.names(index, known, sink)
                await sink.finish()
            except BaseException:
                await sink.abort()
                raise
            if isinstance(answer, Absent):
                url = index.mirror_url
                raise UpstreamError(f"{url} has no project list")
            if isinstance(answer, NotModified):
                assert known is not None  # noqa: S101 (the client refuses an unasked 304)
                return renewed(known, self._now())
            names = Path(folder) / "names.sqlite"
            await self._runner.run(collect, page_path, answer.content_type, names)
            before, removed = await self._runner.run(self._compare, index.name, names)
            if not index.mirror_allow_mass_removal and _is_of(known, answer.url):
                refuse_mass_removal(index.name, before, removed)
            await self._record(index.name, names)
        return Freshness(
            Outcome.FOUND, self._now(), self._now(), answer.url, answer.etag, answer.last_modified
        )  # fmt: skip

    def _compare(self, index: IndexName, names: Path) -> tuple[int, int]:
        with self._database.engine.begin() as connection:
            rows = connection.execution_options(yield_per=2_000).execute(
                select(listing.c.name, listing.c.display).where(
                    listing.c.index_name == index, listing.c.present == 1
                )
            )
            return compare(names, ((row.name, row.display) for row in rows))

    async def _record(self, index: IndexName, names: Path) -> None:
        after = 0
        while True:
            batch = await self._runner.run(_delta_batch, names, after)
            if not batch:
                return
            after = batch[-1][0]
            added = [name for _, kind, name in batch if kind == "added"]
            removed = [name for _, kind, name in batch if kind == "removed"]
            changes = list(listing_changes(index, added, removed))
            await self._writer.write("+mirror", lambda c, changes=changes: changes)  # type: ignore[misc]


def collect(page: Path, content_type: str, names: Path) -> None:
    """Read a list page from disk and put its names into a scratch database.

    Raises UpstreamError for a page that is neither JSON nor HTML, or lists nothing.
    """
    with closing(sqlite3.connect(names)) as scratch, page.open("rb") as file:
        scratch.execute("PRAGMA synchronous=OFF")
        scratch.execute("CREATE TABLE names (name TEXT PRIMARY KEY, display TEXT) WITHOUT ROWID")
        scratch.execute("CREATE TABLE delta (n INTEGER PRIMARY KEY, kind TEXT, display TEXT)")
        if "json" in content_type:
            found: Iterator[str] = iter_names_json(file)
        elif "html" in content_type:
            found = iter_names_html(iter(lambda: file.read(_READ_BYTES), b""))
        else:
            raise UpstreamError(f"a project list of type {content_type!r}")
        scratch.executemany(
            "INSERT OR IGNORE INTO names VALUES (?, ?)", ((normalize(n), n) for n in found)
        )
        (count,) = scratch.execute("SELECT count(*) FROM names").fetchone()
        if not count:
            raise UpstreamError("the upstream's project list is empty")
        scratch.commit()


def _is_of(known: Freshness | None, url: str) -> bool:
    """Whether the names that are here are, as far as is known, of the upstream at a URL."""
    return known is None or known.url in (None, url)


def refuse_mass_removal(index: IndexName, before: int, removed: int) -> None:
    """Raise UpstreamError for a loss that is rather a fault of the upstream than its will."""
    if removed > MASS_REMOVAL and removed * 2 > before:
        raise UpstreamError(
            f"the upstream's project list lost {removed:,} of {before:,} projects at once: the list"
            f" of before is kept. If that is right, set mirror_allow_mass_removal=true on {index}"
            " until it is recorded"
        )


def compare(names: Path, known: Iterable[tuple[str, str]]) -> tuple[int, int]:
    """Write the difference between the scratch names and `known` (name, display) to `delta`.

    Returns how many names are known, and how many of those are gone.
    """
    with closing(sqlite3.connect(names)) as scratch:
        scratch.execute("CREATE TABLE known (name TEXT PRIMARY KEY, display TEXT) WITHOUT ROWID")
        scratch.executemany("INSERT INTO known VALUES (?, ?)", known)
        scratch.execute(
            "INSERT INTO delta (kind, display) SELECT 'added', display FROM names"
            " WHERE NOT EXISTS (SELECT 1 FROM known WHERE known.name = names.name"
            " AND known.display = names.display) ORDER BY name"
        )
        scratch.execute(
            "INSERT INTO delta (kind, display) SELECT 'removed', display FROM known"
            " WHERE name NOT IN (SELECT name FROM names) ORDER BY name"
        )
        (before,) = scratch.execute("SELECT count(*) FROM known").fetchone()
        (removed,) = scratch.execute("SELECT count(*) FROM delta WHERE kind='removed'").fetchone()
        scratch.commit()
        return before, removed


def _delta_batch(names: Path, after: int) -> list[tuple[int, str, str]]:
    with closing(sqlite3.connect(names)) as scratch:
        return scratch.execute(
            "SELECT n, kind, display FROM delta WHERE n > ? ORDER BY n LIMIT ?",
            (after, _NAMES_PER_WRITE),
        ).fetchall()
