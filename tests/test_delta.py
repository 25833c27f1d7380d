"""Deltas of mirrored projects and lists: the log says what changed, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import UpstreamError
from cluster.log.changes import MAX_ENTRY_BYTES, Change
from cluster.model import DistributionFile, ProjectStatus
from cluster.names import IndexName, NormalizedName, normalize
from cluster.state import queries
from cluster.state.apply import apply
from cluster.state.database import writing
from cluster.state.rows import Touched
from cluster.upstream.parse import ParsedProject
from primary.mirroring.delta import (
    NAMES_PER_ENTRY,
    computed,
    keep_computed,
    listing_changes,
    project_delta,
)
from primary.mirroring.listing import _delta_batch, collect, compare
from tests.fakes import engine, entry
from tests.strategies import distribution_files

PYPI = IndexName("root/pypi")
FOO = NormalizedName("foo")
SHA = "ab" * 32


def page(*files: DistributionFile, bare: tuple[str, ...] = (), status: str = "active",
         ) -> ParsedProject:  # fmt: skip
    return ParsedProject(files, bare, ProjectStatus(status), None, ())


def file(name: str = "foo-1.0.tar.gz", **facts: Any) -> DistributionFile:
    return DistributionFile(name, "1.0", url=f"https://files.example/{name}", **facts)


def test_first_sight() -> None:
    """A project that is new here is recorded with all its files, also when it has none."""
    [change] = project_delta(PYPI, FOO, [], None, page(file()))
    assert change.payload == {"index": PYPI, "project": FOO, "files": [file().to_json()]}
    [change] = project_delta(PYPI, FOO, [], None, page())
    assert change.payload == {"index": PYPI, "project": FOO}


def test_nothing_new_is_nothing() -> None:
    """A page that says what the log says adds nothing to the log, whatever its order."""
    known = [file("foo-1.tar.gz"), file("foo-2.tar.gz")]
    facts = (ProjectStatus("archived"), ["3", "4"])
    same = page(*reversed(known), bare=("4", "3"), status="archived")
    assert project_delta(PYPI, FOO, known, facts, same) == []


def test_only_what_changed() -> None:
    """A yank, a new file and a removed one are three items, the rest is not repeated."""
    stays, yanked, gone, new = (file(f"foo-{n}.tar.gz") for n in range(4))
    changed = evolve(yanked, yanked="broken")
    facts = (ProjectStatus(), ["9"])
    [change] = project_delta(
        PYPI, FOO, [stays, yanked, gone], facts, page(stays, changed, new, bare=("9",))
    )
    assert change.payload == {
        "index": PYPI, "project": FOO, "removed": [gone.filename],
        "files": [changed.to_json(), new.to_json()],
    }  # fmt: skip


def test_status_and_its_way_back() -> None:
    """A status that comes or goes is recorded, without any file."""
    [change] = project_delta(PYPI, FOO, [], (ProjectStatus(), []), page(status="quarantined"))
    assert change.payload["status"] == {"status": "quarantined"}
    [change] = project_delta(PYPI, FOO, [], (ProjectStatus("archived", "old"), []), page())
    assert change.payload["status"] == {"status": "active"}


def test_computed_facts_stay() -> None:
    """A digest that we computed is kept while upstream says nothing of its own."""
    bare = file()
    known = computed(bare, SHA, 77)
    assert (known.sha256, known.size) == (SHA, 77)
    assert known.origin == {"sha256": "computed", "size": "computed"}
    facts = (ProjectStatus(), list[str]())
    assert project_delta(PYPI, FOO, [known], facts, page(bare)) == []
    yanked = evolve(bare, yanked="")
    assert keep_computed(known, yanked) == evolve(known, yanked="")


def test_computed_facts_end() -> None:
    """Upstream's own digest wins, and another URL is another file."""
    known = computed(file(), SHA, 77)
    said = file(hashes={"sha256": "cd" * 32})
    assert keep_computed(known, said) == said
    moved = evolve(file(), url="https://files.example/other/foo-1.0.tar.gz")
    assert keep_computed(known, moved) == moved
    assert keep_computed(file(hashes={"sha256": SHA}), file()) == file()


def test_a_stated_size_is_not_computed() -> None:
    """A size that upstream states keeps its origin when the digest is computed."""
    known = computed(file(size=5), SHA, 5)
    assert known.origin == {"sha256": "computed"}
    assert keep_computed(known, file(size=6)).size == 6


# An upstream says nothing about origins.
stated = distribution_files("foo", False).map(lambda f: evolve(f, origin={}))
file_lists = st.lists(stated, max_size=8, unique_by=lambda f: f.filename)
statuses = st.sampled_from(("active", "archived", "deprecated"))
parsed_pages = st.builds(
    lambda files, bare, status: page(*files, bare=tuple(bare), status=status),
    file_lists, st.lists(st.sampled_from(("1", "2")), unique=True), statuses,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(parsed_pages, min_size=1, max_size=5))
def test_the_state_follows_the_page(pages: list[ParsedProject]) -> None:
    """After each delta the state says what the page says; a second look changes nothing."""
    serial = 0
    with engine() as of, writing(of) as connection:
        for one in pages:
            for again in (False, True):
                known = queries.project_files(connection, PYPI, FOO)
                facts = queries.project_facts(connection, PYPI, FOO)
                delta = project_delta(PYPI, FOO, known, facts, one)
                assert not (again and delta)
                for change in delta:
                    serial += 1
                    apply(connection, entry(serial, change), Touched())
            found = queries.project_files(connection, PYPI, FOO)
            assert found == sorted(one.files, key=lambda f: f.filename)
            assert queries.project_facts(connection, PYPI, FOO) == (
                one.status, sorted(one.bare_versions),
            )  # fmt: skip


def test_a_large_project_is_split() -> None:
    """A project of 2,000 files takes several numbered entries of bounded size."""
    files = [file(f"foo-{n}.tar.gz", hashes={"sha256": f"{n:064x}"}) for n in range(2_000)]
    changes = project_delta(PYPI, FOO, [], None, page(*files))
    assert [c.payload["part"] for c in changes] == list(range(1, len(changes) + 1))
    assert all(len(entry(n + 1, c).raw) <= MAX_ENTRY_BYTES for n, c in enumerate(changes))


@given(st.lists(st.text("abc", min_size=1), max_size=700), st.lists(st.text("xyz", min_size=1)))
def test_lists_are_split(added: list[str], removed: list[str]) -> None:
    """Each name of a list's delta is in one entry, and no entry has too many."""
    changes = list(listing_changes(PYPI, added, removed))
    assert [n for c in changes for n in c.payload.get("added", [])] == added
    assert [n for c in changes for n in c.payload.get("removed", [])] == removed
    sizes = [len(c.payload.get("added", [])) + len(c.payload.get("removed", [])) for c in changes]
    assert all(0 < size <= NAMES_PER_ENTRY for size in sizes)


def test_the_longest_names_fit() -> None:
    """An entry of as many names as it may hold, each as long as may be, is not too large."""
    [change] = listing_changes(PYPI, ["n" * 255] * NAMES_PER_ENTRY, [])
    assert len(entry(2**40, change).raw) <= MAX_ENTRY_BYTES


def listing(tmp_path: Path, names: list[str], known: list[str]) -> list[Change]:
    """The changes from `known` to a list page with `names`."""
    source, scratch = tmp_path / "page", tmp_path / "names.sqlite"
    scratch.unlink(missing_ok=True)
    source.write_text("".join(f'<a href="{normalize(n)}/">{n}</a>\n' for n in names))
    collect(source, "text/html; charset=utf-8", scratch)
    compare(scratch, ((normalize(name), name) for name in known))
    rows = _delta_batch(scratch, 0)
    return list(
        listing_changes(
            PYPI,
            [name for _, kind, name in rows if kind == "added"],
            [name for _, kind, name in rows if kind == "removed"],
        )
    )


def test_list_delta(tmp_path: Path) -> None:
    """Names that came, went or are spelled otherwise are recorded; the rest is not."""
    changes = listing(tmp_path, ["Foo", "bar", "new"], ["foo", "bar", "gone"])
    assert [c.payload for c in changes] == [
        {"index": PYPI, "added": ["Foo", "new"]},
        {"index": PYPI, "removed": ["gone"]},
    ]
    assert listing(tmp_path, ["a", "b"], ["b", "a"]) == []


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"<html></html>", "text/html"), (b"a", "text/plain"), (b"{}", "application/json"),
     (b"", "text/html")],
)  # fmt: skip
def test_a_list_of_nothing_removes_nothing(tmp_path: Path, body: bytes, content_type: str) -> None:
    """A page without a single name is an error, not the end of all projects."""
    source = tmp_path / "page"
    source.write_bytes(body)
    with pytest.raises(UpstreamError):
        collect(source, content_type, tmp_path / "names.sqlite")
