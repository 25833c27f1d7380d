"""The fold: the same entries give the same state, live, replayed and on another node."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from hypothesis import given, settings
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from cluster.errors import LogError, NotFound
from cluster.log import changelog
from cluster.log.changes import Change, Entry, Kind, in_parts
from cluster.log.checkpoint import Checkpoint
from cluster.log.driver import driver
from cluster.log.merkle import Frontier, leaf_hash
from cluster.model import DistributionFile
from cluster.names import IndexName, NormalizedName
from cluster.protocol import TAIL_PAGE_BYTES, TailPage, decode_tail, encode_tail
from cluster.state import links, queries
from cluster.state.apply import apply, digest, rebuild
from cluster.state.database import writing
from cluster.state.options import kind_of, parse_options, to_options
from cluster.state.rows import Touched, url_link
from replica.taking import take
from tests.fakes import SIGNER, START, TRUST, engine, entry
from tests.strategies import HOSTED, MIRRORS, PROJECTS, Write, histories

SHA = "ab" * 32


def index_set(name: IndexName, **options: Any) -> Change:
    index = parse_options(name, options).index
    payload = {"index": name, "type": kind_of(index), "options": to_options(index)}
    return Change(Kind.INDEX_SET, payload)


# Histories begin with indexes that inherit from each other, so that most of them matter.
BEGINNING: list[Write] = [
    [START],
    [index_set(HOSTED[0], bases=[HOSTED[1], MIRRORS[0]]), index_set(HOSTED[1], bases=HOSTED[2])],
    [index_set(HOSTED[2], bases=MIRRORS[1])],
    [index_set(name, type="mirror", mirror_url="https://up.example/") for name in MIRRORS],
]


def record(of: Engine, *writes: Write) -> Touched:
    """What the primary's writer does: entries and state in one transaction a write."""
    touched = Touched()
    for write in writes:
        with writing(of) as connection:
            frontier = changelog.frontier(connection)
            made = [entry(n, change) for n, change in enumerate(write, start=frontier.size + 1)]
            for one in made:
                apply(connection, one, touched)
            changelog.append(connection, frontier, made)
    return touched


def follow(source: Engine, target: Engine, max_entries: int) -> None:
    """What a replica does: verified pages, over the wire's bytes, until there are no more."""
    while True:
        with source.begin() as connection:
            with target.begin() as own:
                at = changelog.frontier(own)
            raw = changelog.read_raw(connection, at.size, TAIL_PAGE_BYTES, max_entries)
            if not raw:
                return
            after = changelog.frontier(connection, at.size + len(raw))
        note = SIGNER.sign(Checkpoint(SIGNER.name, after.size, after.root))
        page = decode_tail(encode_tail(TailPage(raw, note)))
        with writing(target) as own:
            taken = take(own, TRUST, at, page)
        assert taken.frontier == after


def state(of: Engine) -> str:
    with of.begin() as connection:
        return digest(connection)


@settings(max_examples=60, deadline=None)
@given(histories())
def test_live_replayed_and_followed_states_are_equal(history: list[Write]) -> None:
    """R1, R3, R10: the live state is what a replay gives, and what a replica holds."""
    with engine() as live, engine() as other:
        record(live, *BEGINNING, *history)
        before = state(live)
        with writing(live) as connection:
            rebuild(connection)
        assert state(live) == before
        for max_entries in (3, 1_000):
            follow(live, other, max_entries)
        assert state(other) == before
        with live.begin() as one, other.begin() as two:
            assert changelog.frontier(one) == changelog.frontier(two)


@settings(max_examples=60, deadline=None)
@given(histories(40))
def test_serial_of_a_page_never_goes_back(history: list[Write]) -> None:
    """C4: whatever happens, a page's URL never shows a lower serial than before."""
    last: dict[tuple[str, str], int] = {}
    with engine() as of:
        record(of, *BEGINNING)
        for write in history:
            record(of, write)
            with of.begin() as connection:
                for key, serial in page_serials(connection).items():
                    assert serial >= last.get(key, 0), (key, write)
                    last[key] = serial


@settings(max_examples=60, deadline=None)
@given(histories(40))
def test_what_changed_is_touched(history: list[Write]) -> None:
    """A page that reads differently after a write is among what the write touched."""
    with engine() as of:
        record(of, *BEGINNING)
        before: dict[tuple[str, str], Any] = {}
        for write in history:
            touched = record(of, write)
            with of.begin() as connection:
                after = pages(connection)
            changed = {key for key in before | after if before.get(key) != after.get(key)}
            assert touched.indexes or {project for _, project in changed} <= touched.projects
            before = after


def pages(connection: Connection) -> dict[tuple[str, str], Any]:
    """Every page that there is: (index, project) to what it says."""
    found: dict[tuple[str, str], Any] = {}
    for name in HOSTED + MIRRORS:
        index = queries.index(connection, name)
        for project in PROJECTS if index is not None else ():
            assert index is not None
            try:
                page = queries.project_page(connection, index, NormalizedName(project))
            except NotFound:
                continue
            found[name, project] = page
    return found


def page_serials(connection: Connection) -> dict[tuple[str, str], int]:
    return {key: page.serial for key, page in pages(connection).items()}


def file_added(index: str, filename: str = "foo-1.0.tar.gz", project: str = "foo") -> Change:
    file = DistributionFile(filename, "1.0", hashes={"sha256": SHA})
    return Change(
        Kind.FILE_ADDED, {"index": index, "project": project, "name": "Foo", "file": file.to_json()}
    )


def page_of(of: Engine, name: IndexName, project: str = "foo") -> Any:
    with of.begin() as connection:
        index = queries.index_or_404(connection, name)
        return queries.project_page(connection, index, NormalizedName(project))


def test_losing_a_base_does_not_turn_the_serial_back() -> None:
    """A page that loses the base which changed last has a new serial, not an old one."""
    dev, prod = HOSTED[0], HOSTED[1]
    with engine() as of:
        record(of, [START], [index_set(dev, bases=prod)], [file_added(dev)], [index_set(prod)])
        record(of, [file_added(prod, "foo-2.0.tar.gz")])
        assert page_of(of, dev).serial == 5
        record(of, [Change(Kind.INDEX_REMOVED, {"index": prod})])
        assert page_of(of, dev).serial == 6


def test_removed_index_leaves_no_files() -> None:
    """An index that comes back after its removal is empty, and its pages are newer."""
    dev = HOSTED[0]
    with engine() as of:
        record(of, [START], [index_set(dev)], [file_added(dev)])
        record(of, [Change(Kind.INDEX_REMOVED, {"index": dev})], [index_set(dev)])
        with pytest.raises(NotFound):
            page_of(of, dev)
        record(of, [file_added(dev, "foo-2.0.tar.gz")])
        page = page_of(of, dev)
        assert [file.filename for file in page.files] == ["foo-2.0.tar.gz"]
        assert page.serial == 6


def test_last_file_takes_the_project_along() -> None:
    """A hosted project without files is no project, and comes back with a newer serial."""
    dev = HOSTED[0]
    gone = Change(Kind.FILE_REMOVED, {"index": dev, "project": "foo", "filename": "foo-1.0.tar.gz"})
    with engine() as of:
        record(of, [START], [index_set(dev)], [file_added(dev)], [gone])
        with pytest.raises(NotFound):
            page_of(of, dev)
        record(of, [file_added(dev)])
        assert page_of(of, dev).serial == 5


def test_first_index_wins_for_a_filename() -> None:
    """§7 rule 2: the nearest index decides for a name, other names are merged."""
    dev, prod = HOSTED[0], HOSTED[1]
    other = Change(Kind.FILE_ADDED, {
        "index": prod, "project": "foo",
        "file": DistributionFile("foo-1.0.tar.gz", hashes={"sha256": "cd" * 32}).to_json(),
    })  # fmt: skip
    with engine() as of:
        record(of, [START], [index_set(dev, bases=prod), index_set(prod)], [file_added(dev)])
        record(of, [other], [file_added(prod, "foo-2.0.tar.gz")])
        files = {file.filename: file.sha256 for file in page_of(of, dev).files}
        assert files == {"foo-1.0.tar.gz": SHA, "foo-2.0.tar.gz": SHA}


def test_file_known_by_url_keeps_its_old_link() -> None:
    """A file whose sha256 was computed later is found by the link of either page."""
    pypi = MIRRORS[0]
    url = "https://files.example/foo-1.0.tar.gz"
    bare = {"filename": "foo-1.0.tar.gz", "url": url}
    known = {**bare, "hashes": {"sha256": SHA}, "origin": {"sha256": "computed"}}
    common = {"index": pypi, "project": "foo"}
    with engine() as of:
        record(of, [START], [index_set(pypi, type="mirror", mirror_url="https://up.example/")])
        for file in (bare, known):
            record(of, [Change(Kind.MIRROR_PROJECT, {**common, "files": [file]})])
            with of.begin() as connection:
                index = queries.index_or_404(connection, pypi)
                found = links.file_by_link(connection, index, "+e", url_link(url), "foo-1.0.tar.gz")
                assert found.file.to_json() == file
        with of.begin() as connection:
            found = links.file_by_link(connection, index, "+f", SHA[:16], "foo-1.0.tar.gz")
            assert found.file.sha256 == SHA


def test_first_sight_of_a_large_project() -> None:
    """A project of 3,000 files goes through the log in parts and is whole at the other end."""
    pypi = MIRRORS[0]
    files = [
        DistributionFile(f"foo-{n}.tar.gz", str(n), hashes={"sha256": f"{n:064x}"}, size=n)
        for n in range(3_000)
    ]
    items = [("files", file.to_json()) for file in files]
    parts = in_parts(Kind.MIRROR_PROJECT, {"index": pypi, "project": "foo"}, items)
    assert len(parts) > 3
    with engine() as of, engine() as other:
        record(of, [START], [index_set(pypi, type="mirror", mirror_url="https://up.example/")])
        record(of, parts)
        follow(of, other, 1)
        assert state(of) == state(other)
        assert list(page_of(other, pypi).files) == sorted(files, key=lambda file: file.filename)


@pytest.mark.parametrize(
    "change",
    [
        Change(Kind.FILE_ADDED, {"index": "root/dev", "project": "foo"}),
        Change(Kind.FILE_ADDED, {"index": "root/dev", "project": "foo", "file": {"filename": "a"}}),
        Change(Kind.FILE_ADDED, {"index": "root/dev", "project": "foo", "file": "a"}),
        Change(Kind.MIRROR_PROJECT, {"project": "foo"}),
        Change(Kind.MIRROR_PROJECT, {"index": "root/pypi", "project": "foo", "files": 5}),
        Change(Kind.INDEX_SET, {"index": "root/dev"}),
        Change(Kind.USER_SET, {}),
        Change(Kind.EPOCH_STARTED, {}),
        Change(Kind.MIRROR_LISTING, {"index": "root/pypi", "added": [5]}),
        Change(Kind.PROJECT_REGISTERED, {"index": ["root"], "project": "foo", "name": "foo"}),
        Change(Kind.EPOCH_STARTED, {"log": [1], "key": {}}),
        Change(Kind.EPOCH_STARTED, {"log": None, "key": "key"}),
        Change(Kind.USER_SET, {"user": None, "options": {}}),
        Change(Kind.PROJECT_STATUS, {"index": "a/b", "project": None, "status": None}),
    ],
)
def test_malformed_payloads(change: Change) -> None:
    """A payload that is not of its kind is a LogError, which stops a follower by name."""
    with engine() as of, writing(of) as connection, pytest.raises(LogError, match="malformed"):
        apply(connection, entry(1, change), Touched())


NEW_USER = Change(Kind.USER_SET, {"user": "ann", "options": {}})
NO_TOKEN = Change(Kind.TOKEN_REMOVED, {"token": "t"})


@pytest.mark.parametrize("change", [NEW_USER, NO_TOKEN], ids=["by the driver", "by SQLAlchemy"])
def test_a_closed_database_is_no_entrys_fault(change: Change) -> None:
    """What cannot be applied because the node is going down is not called malformed."""
    with engine() as of, of.connect() as connection:
        driver(connection).close()
        with pytest.raises((sqlite3.ProgrammingError, DBAPIError), match="closed database"):
            apply(connection, entry(1, change), Touched())


def test_every_kind_is_applied() -> None:
    """No kind that can be recorded is unknown to the fold: a bare entry is at least malformed."""
    for kind in Kind:
        with engine() as of, writing(of) as connection, pytest.raises(LogError):
            apply(connection, entry(1, Change(kind, {})), Touched())


def test_digest_sees_every_column() -> None:
    """Two states that differ in one fact have different digests."""
    seen = set()
    for title in ("a", "b"):
        with engine() as of:
            record(of, [START], [index_set(HOSTED[0], title=title)])
            seen.add(state(of))
    assert len(seen) == 2


def test_rebuild_repairs_a_damaged_state() -> None:
    """Rows that no entry explains are gone after a rebuild, and progress was told."""
    with engine() as of:
        record(of, [START], [index_set(HOSTED[0])], [file_added(HOSTED[0])])
        good = state(of)
        with writing(of) as connection:
            connection.exec_driver_sql("UPDATE files SET body = '{}'")
            connection.exec_driver_sql("DELETE FROM indexes")
        assert state(of) != good
        told: list[int] = []
        with writing(of) as connection:
            rebuild(connection, told.append)
        assert state(of) == good
        assert told == [1, 2, 3]


def test_a_frontier_is_kept_beside_the_state() -> None:
    """The log's size and root follow from what was recorded, entry by entry."""
    with engine() as of:
        record(of, [START], [index_set(HOSTED[0])])
        with of.begin() as connection:
            log: list[Entry] = list(changelog.entries(connection))
            from_tiles = changelog.frontier(connection)
        hashes = [leaf_hash(one.raw) for one in log]
        assert from_tiles == Frontier().extended(hashes)
