"""From the log to the queues: who is to be told what, once for each entry.

All functions take the connection of a transaction. The log is read once for all targets: an
entry becomes one row for each target of its index, in the transaction that moves the position
in the log, and the row goes when it is told. A process that is killed between telling and
forgetting tells again (at least once). A power cut may lose the last transactions of
local.sqlite: then some events are told again, with the same delivery ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects.sqlite import insert

from cluster.log.changes import Entry, Kind
from primary.triggers.events import TOLD, urls_of
from primary.triggers.tables import (
    Key,
    Setting,
    State,
    held,
    of,
    place,
    queue,
    state,
    targets,
    targets_of,
)


def position(connection: Connection) -> int | None:
    """The last serial of the log that was looked at; None before the first start."""
    return connection.execute(select(place.c.serial)).scalar()


def needed(connection: Connection) -> int | None:
    """The serial up to which no entry is needed to tell any more; None before the first start."""
    seen = position(connection)
    firsts = [connection.execute(select(func.min(t.c.source))).scalar() for t in (queue, held)]
    return None if seen is None else min([seen, *(int(f) - 1 for f in firsts if f is not None)])


def begin(connection: Connection, serial: int, settings: Mapping[Key, Setting]) -> None:
    """Look at the log from behind `serial` on, with the targets that there are at it.

    What was queued of entries that are not there (the log is a restored one) is forgotten.
    """
    for key, setting in settings.items():
        _set_target(connection, key, setting, serial)
    for table in (queue, held):
        connection.execute(delete(table).where(table.c.source > serial))
    move(connection, serial)


def move(connection: Connection, serial: int) -> None:
    """The log was looked at up to `serial`."""
    statement = insert(place).values(id=0, serial=serial)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["id"], set_={"serial": serial})
    )


def take(
    connection: Connection, entries: Iterable[Entry], upto: int, now: float
) -> dict[Key, State | None]:
    """Queue what `entries` say, and move to serial `upto`: the targets that this changed
    (None: gone)."""
    touched: set[Key] = set()
    for entry in entries:
        touched |= _take_one(connection, entry, now)
    move(connection, upto)
    return {key: state(connection, key) for key in touched}


def _take_one(connection: Connection, entry: Entry, now: float) -> set[Key]:
    index = entry.payload["index"]
    if entry.kind in (Kind.INDEX_SET, Kind.INDEX_REMOVED):
        return _index_changed(connection, entry)
    if entry.kind is Kind.STAGE_PUBLISHED:
        sources = _taken_from_stage(connection, index, entry.payload["stage"])
        return _enqueue(connection, index, entry.serial, sources, now)
    if entry.kind is Kind.STAGE_DROPPED:
        _taken_from_stage(connection, index, entry.payload["stage"])
        return set()
    if entry.payload.get("imported"):  # what another server has tested already
        return set()
    if "stage" in entry.payload:
        row = {"index_name": index, "stage": entry.payload["stage"], "source": entry.serial}
        connection.execute(insert(held).values(**row, kind=entry.kind.value))
        return set()
    return _enqueue(connection, index, entry.serial, [(entry.serial, entry.kind)], now)


def _index_changed(connection: Connection, entry: Entry) -> set[Key]:
    index = entry.payload["index"]
    options = entry.payload.get("options", {})
    urls = urls_of(options) if entry.payload.get("type") == "stage" else {}
    known = set(targets_of(connection, index))
    for target in known - urls.keys():
        for table in (targets, queue):
            connection.execute(delete(table).where(*of(table, Key(index, target))))
    if entry.kind is Kind.INDEX_REMOVED:
        connection.execute(delete(held).where(held.c.index_name == index))
    for target, url in urls.items():
        setting = Setting(url, entry.payload.get("secrets"))
        _set_target(connection, Key(index, target), setting, entry.serial)
    return {Key(index, target) for target in known | urls.keys()}


def _set_target(connection: Connection, key: Key, setting: Setting, serial: int) -> None:
    # A target that is there already keeps its position and what it is still to be told.
    values = {"url": setting.url, "secrets": setting.secrets}
    statement = insert(targets).values(
        index_name=key.index, target=key.target.value, position=serial, dropped=0, **values
    )
    connection.execute(
        statement.on_conflict_do_update(index_elements=["index_name", "target"], set_=values)
    )


def _taken_from_stage(connection: Connection, index: str, stage: str) -> list[tuple[int, Kind]]:
    where = (held.c.index_name == index, held.c.stage == stage)
    rows = connection.execute(
        select(held.c.source, held.c.kind).where(*where).order_by(held.c.source)
    ).all()
    connection.execute(delete(held).where(*where))
    return [(row.source, Kind(row.kind)) for row in rows]


def _enqueue(
    connection: Connection, index: str, serial: int, sources: Sequence[tuple[int, Kind]], now: float
) -> set[Key]:
    told: set[Key] = set()
    for target in targets_of(connection, index):
        rows = [
            {
                "index_name": index, "target": target.value, "serial": serial,
                "number": number, "source": source, "queued_at": now,
            }
            for number, (source, kind) in enumerate(sources)
            if kind in TOLD[target]
        ]  # fmt: skip
        if rows:
            connection.execute(insert(queue), rows)
            told.add(Key(index, target))
    return told
