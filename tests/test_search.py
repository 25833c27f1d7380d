"""The search index: what is found, that any text is a question, and that it follows the log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from cluster.errors import InvalidRequest
from cluster.log.changes import Change, Kind
from cluster.search import store, words
from cluster.search.documents import Document, latest
from cluster.search.index import LONGEST_SECONDS, QUIET_SECONDS, SearchOff
from cluster.state.database import writing
from tests.indexed import DEV, OTHER, PYPI, Node, index_set, listed, release, running_node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A started node with a hosted index and a mirror."""
    with running_node(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None), ("  ", None), ("NOT", None), ("NOT x", None), ("AND OR", None), ("***", None),
        ('""', None), ("(((", None), ("x", '("x")'), ("x*", '("x"*)'), ("x y", '("x" AND "y")'),
        ("x AND y", '("x" AND "y")'), ("x OR y", '("x") OR ("y")'), ("and", '("and")'),
        ("x NOT y", '("x") NOT ("y")'), ("NOT y x", '("x") NOT ("y")'),
        ("x NOT y NOT z", '("x") NOT ("y" OR "z")'), ('"a b" c', '("a b" AND "c")'),
        ("'a b'*", '("a b"*)'), ("don't", '("don\'t")'), ('"a', '("a")'), ("x OR NOT y", '("x")'),
        ("name:x", '("name:x")'), ("x\x00y", '("x" AND "y")'),
    ],
)  # fmt: skip
def test_expressions(text: str, expected: str | None) -> None:
    """What people type becomes an expression in which only the operators mean anything."""
    assert words.expression(text) == expected


def test_expressions_by_field() -> None:
    """Fields are joined as asked; names are found by how they begin."""
    spec = {"name": ["a b"], "summary": ["a"]}
    expected = '({name} : (("a"* AND "b"*))) OR ({summary} : (("a")))'
    assert words.in_fields(spec, "or") == expected
    assert words.in_fields({"name": ["a"], "summary": ["("]}, "and") is None
    assert words.in_fields({"name": ["a"], "summary": ["("]}, "or") == '({name} : (("a"*)))'
    assert words.in_fields({}, "and") is None
    with pytest.raises(InvalidRequest):
        words.in_fields({"index": ["x"]}, "and")


_TEXT = st.text(max_size=60) | st.lists(
    st.sampled_from(
        ["AND", "OR", "NOT", "NEAR(", ")", '"', "'", "*", "^", "-", "name:", "{", "+", "\x00", "py",
         "\ud800", '""', "a*b", "日本", "é", "--", ";", "%"]
    ),
    max_size=80,
).map(" ".join)  # fmt: skip


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    engine = store.open_store(tmp_path_factory.mktemp("search") / "search.sqlite")
    document = Document(DEV, "py", "1", "a b", "py", "x", "y", "z", "日本 é name near")
    with writing(engine) as connection:
        store.write(connection, {document.key: document})
    with engine.begin() as connection:
        yield connection
    engine.dispose()


@given(text=_TEXT, more=_TEXT, operator=st.sampled_from(["and", "or"]))
def test_any_text_is_a_question(filled: object, text: str, more: str, operator: str) -> None:
    """SQLite understands whatever is typed, as one text and in fields: no text is an error."""
    found = words.in_fields({"name": [text, more], "description": [more]}, operator)  # type: ignore[arg-type]
    for expression in (words.expression(text), words.expression(more, prefixes=True), found):
        if expression is not None:
            store.find(filled, [DEV], expression, text[:5].encode("utf-8", "replace").decode(), 10)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_what_is_found(node: Node) -> None:
    """Words of name, summary, keywords, classifiers, author and description find a project, the
    one of that name before all others; only the indexes that were named are searched."""
    node.log(
        release("Foo_Bar", "1.0", summary="An old summary"),
        release("Foo_Bar", "2.0", summary="Weaves baskets", keywords="willow",
                classifiers=["Topic :: Basketry"], author="Ada", description="läng text"),
        release("Foo_Bar", "3.0rc1", summary="A candidate"),
        release("other", "1", summary="Mentions foo-bar and willow"),
        release("hidden", "1", index=OTHER, summary="willow"),
        listed("willow-tools", "unrelated"),
    )  # fmt: skip
    node.settle()
    for query in ("foo", "foo-bar", "baskets", "basketry", "ada", '"lang text"', "weav*"):
        assert "Foo_Bar" in await node.names(query), query
    assert (await node.names("foo-bar"))[0] == "Foo_Bar"
    assert (await node.names("Foo_Bar"))[0] == "Foo_Bar"
    assert await node.names("candidate") == await node.names("old") == []
    assert set(await node.names("willow")) == {"Foo_Bar", "other", "willow-tools"}
    assert await node.names("willow", OTHER) == ["hidden"]
    assert await node.names("willow NOT tools", PYPI) == []
    assert await node.names("hidden OR unrelated") == ["unrelated"]
    (hit,) = await node.search.find([DEV], "baskets")
    assert (hit.index, hit.project, hit.version) == (DEV, "foo-bar", "2.0")
    assert hit.summary == "Weaves baskets"
    first, second = [
        await node.search.find([DEV, PYPI], "willow", limit=1, offset=n) for n in (0, 1)
    ]
    assert first != second


@pytest_twisted.ensureDeferred
async def test_it_forgets(node: Node) -> None:
    """Removed releases, projects, listed names and indexes are not found any more."""
    node.log(release("one", "1", summary="first"), release("one", "2", summary="second"),
             release("two", "1", summary="first"), listed("three", "four"))  # fmt: skip
    node.settle()
    where = {"index": DEV, "project": "one", "name": "one"}
    node.log(Change(Kind.RELEASE_REMOVED, {**where, "version": "2"}))
    node.settle()
    assert set(await node.names("first")) == {"one", "two"}
    node.log(Change(Kind.PROJECT_REMOVED, where), listed("three", kind="removed"))
    node.settle()
    assert await node.names("one OR two OR three OR four") == ["four", "two"]
    node.log(Change(Kind.INDEX_REMOVED, {"index": DEV}), index_set(DEV), release("new", "1"))
    node.settle()
    assert await node.names("two OR new") == ["new"]


@pytest_twisted.ensureDeferred
async def test_staged_releases_are_found_when_published(node: Node) -> None:
    """What waits in a stage is not found; publishing it is one entry that names no project."""
    change = release("later", "1", summary="patience")
    node.log(Change(change.kind, {**change.payload, "stage": "s1"}), release("now", "1"))
    node.settle()
    assert await node.names("patience") == []
    node.log(Change(Kind.STAGE_PUBLISHED, {"index": DEV, "stage": "s1"}))
    node.settle()
    assert await node.names("patience") == ["later"]


@pytest_twisted.ensureDeferred
async def test_a_new_process_goes_on_from_where_the_store_is(node: Node) -> None:
    """What was recorded while nothing followed is read from the log; nothing is built again."""
    node.log(release("before", "1"))
    node.settle()
    await node.search.stop()
    before = node.search.progress
    node.log(release("meanwhile", "1"))
    node.search = node.new_index()
    node.search.start()
    node.settle()
    assert before is not None
    assert before.cursor is None
    assert await node.names("before OR meanwhile") == ["before", "meanwhile"]


@pytest.mark.parametrize("damage", ["removed", "garbage", "older log", "other version"])
@pytest_twisted.ensureDeferred
async def test_it_is_built_again(node: Node, damage: str) -> None:
    """A store that is gone, broken, of another version, or ahead of the log is built from the
    state, and what comes meanwhile is in it."""
    node.log(release("hosted", "1", summary="kept"), listed(*(f"name-{n}" for n in range(50))))
    node.settle()
    await node.search.stop()
    path = node.folder / "search.sqlite"
    if damage in ("removed", "garbage"):
        store.remove_store(path)
    if damage == "garbage":
        path.write_bytes(b"no database at all" * 1_000)
    if damage in ("older log", "other version"):
        engine = store.open_store(path)
        with writing(engine) as connection:
            known = store.progress(connection)
            assert known is not None
            store.set_progress(connection, store.Progress(known.log, 10_000))
            if damage == "other version":
                connection.exec_driver_sql("PRAGMA user_version=99")
        engine.dispose()
    node.search = node.new_index()
    node.search.start()
    node.log(release("meanwhile", "1"))
    node.clock.advance(60)
    node.settle()
    found = await node.names("kept OR meanwhile OR 49")
    assert set(found) == {"hosted", "meanwhile", "name-49"}


@pytest_twisted.ensureDeferred
async def test_a_store_removed_under_a_running_node(node: Node) -> None:
    """An operator may remove the file at any time; the next commit builds it again."""
    node.log(release("one", "1"))
    node.settle()
    store.remove_store(node.folder / "search.sqlite")
    node.log(release("two", "1"))
    node.settle()
    assert set(await node.names("one OR two")) == {"one", "two"}


@pytest_twisted.ensureDeferred
async def test_a_crash_while_building_goes_on(node: Node) -> None:
    """A store that is half built is finished from its last key, and then follows the log."""
    node.log(*(release(f"name-{n:02}", "1") for n in range(20)))
    node.settle()
    await node.search.stop()
    engine = store.open_store(node.folder / "search.sqlite")
    with writing(engine) as connection:
        known = store.progress(connection)
        assert known is not None
        store.drop_some(connection, DEV, 1_000)
        half = store.Progress(known.log, known.serial, (DEV, "name-09"))
        store.set_progress(connection, half)
    engine.dispose()
    node.search = node.new_index()
    node.search.start()
    node.settle()
    assert len(await node.names("name*")) == 10  # what is behind the key; the rest was in it


def test_large_entries_do_not_fall_behind(node: Node) -> None:
    """However few entries a read of the log brings, all that came before a pause are in the index
    soon after it."""
    node.log(*(release(f"large-{n}", "1", description="x" * 60_000) for n in range(40)))
    node.clock.advance(QUIET_SECONDS)
    for _ in range(40):
        node.clock.advance(0.02)
    assert node.search.document()["serial"] == node.at.serial


def test_commits_in_a_row_are_one_update(node: Node) -> None:
    """One commit is found half a second later; of many without a pause, all together after a few
    seconds. A node that goes down does not wait for that."""
    node.log(release("one", "1"))
    at = node.at.serial
    node.clock.advance(QUIET_SECONDS)
    assert node.search.document()["serial"] == at
    steps = 0
    while node.search.document()["serial"] == at:
        node.log(release(f"more-{steps}", "1"))
        node.clock.advance(QUIET_SECONDS / 2)
        steps += 1
        assert steps < 100
    assert steps * QUIET_SECONDS / 2 == pytest.approx(LONGEST_SECONDS, abs=QUIET_SECONDS)
    node.log(release("last", "1"))
    stopping = Deferred.fromCoroutine(node.search.stop())
    assert stopping.called


@pytest_twisted.ensureDeferred
async def test_search_that_is_off(node: Node) -> None:
    """With --no-search nothing is written, and who searches is told why."""
    search = node.new_index(enabled=False)
    search.start()
    with pytest.raises(SearchOff, match="no-search"):
        await search.find([DEV], "x")
    assert search.document() == {"enabled": False, "serial": 0, "building": False}
    await search.stop()


@pytest_twisted.ensureDeferred
async def test_status(node: Node) -> None:
    """The status says how far the search is."""
    node.log(release("one", "1"))
    node.settle()
    assert node.search.document() == {"enabled": True, "serial": 5, "building": False}


def test_latest() -> None:
    """The newest final release stands for a project; a pre-release only when there is no other."""
    assert latest(["1.0", "2.0rc1", "1.10", "1.9"]) == "1.10"
    assert latest(["2.0rc1", "odd", "2.0b1"]) == "2.0rc1"
    assert latest(["odd"]) == "odd"
    assert latest([]) == ""
