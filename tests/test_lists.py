"""Project lists on disk: rendered anew while somebody is about to read the one before."""

from __future__ import annotations

from pathlib import Path

import pytest_twisted
from twisted.internet.task import Clock

from cluster.log.changes import Change, Kind
from cluster.names import IndexName
from cluster.simple.listing import ListPages
from cluster.simple.negotiate import Format
from cluster.state.apply import apply
from cluster.state.database import Database, open_engine, writing
from cluster.state.position import Head
from cluster.state.rows import Touched
from cluster.state.schema import metadata
from cluster.threads import Inline
from tests.fakes import START, as_clock, entry

INDEX = IndexName("root/dev")
INDEX_SET = Change(Kind.INDEX_SET, {"index": INDEX, "type": "mirror",
                                    "options": {"mirror_url": "https://u.example/"}})  # fmt: skip


def listed(*names: str) -> Change:
    return Change(Kind.MIRROR_LISTING, {"index": INDEX, "added": list(names)})


@pytest_twisted.ensureDeferred
async def test_a_list_that_was_handed_out_keeps_its_bytes(tmp_path: Path) -> None:
    """Size and ETag of a list are those of its file, also when a newer one was rendered."""
    engine = open_engine(tmp_path / "db", metadata)
    serial = 0
    database = Database(engine, Inline(), Inline())
    folder = tmp_path / "lists"
    lists = ListPages(database, as_clock(Clock()), folder, lambda: serial)

    def write(change: Change) -> None:
        nonlocal serial
        serial, touched = serial + 1, Touched()
        with writing(engine) as connection:
            apply(connection, entry(serial, change), touched)
        lists.changed(Head(serial, 1, b"", None), touched)

    write(START)
    write(INDEX_SET)
    write(listed("one"))
    before = await lists.get(INDEX, Format.JSON_V1)
    write(listed("two"))
    after = await lists.get(INDEX, Format.JSON_V1)
    for each, names in ((before, 1), (after, 2)):
        data = each.plain.path.read_bytes()
        assert (len(data), data.count(b'"name"')) == (each.plain.size, names)
    write(listed("three"))
    await lists.get(INDEX, Format.JSON_V1)
    assert not before.plain.path.exists()
    assert len(list(folder.iterdir())) == 4
    engine.dispose()
