"""One target's queue: what comes next, and what became of it.

All functions take the connection of a transaction and give the target's new state, None when
the target is gone.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, delete, func, select, update

from primary.triggers.tables import Item, Key, State, of, queue, state, targets

GIVE_UP_SECONDS: Final = 24 * 3600.0


def oldest(connection: Connection, key: Key) -> Item | None:
    """What a target is to be told next."""
    row = connection.execute(
        select(queue.c.serial, queue.c.number, queue.c.source)
        .where(*of(queue, key))
        .order_by(queue.c.serial, queue.c.number)
        .limit(1)
    ).first()
    return None if row is None else Item(row.serial, row.number, row.source)


def told(connection: Connection, key: Key, item: Item, now: float) -> State | None:
    """A target took an event: on to the next."""
    _forget(connection, key, item)
    _update(connection, key, position=item.serial, last_success=now, failing_since=None)
    return state(connection, key)


def refused(connection: Connection, key: Key, item: Item, error: str) -> State | None:
    """A target will never take this event, but others: on to the next."""
    _forget(connection, key, item)
    _update(
        connection, key, position=item.serial, last_error=error, failing_since=None,
        dropped=targets.c.dropped + 1,
    )  # fmt: skip
    return state(connection, key)


def failed(connection: Connection, key: Key, error: str, now: float) -> State | None:
    """A target could not be told. What waits for a day while it fails for a day is dropped."""
    since = func.coalesce(targets.c.failing_since, now)
    _update(connection, key, last_error=error, failing_since=since)
    found = state(connection, key)
    if found is None or now - (found.failing_since or now) < GIVE_UP_SECONDS:
        return found
    old = (*of(queue, key), queue.c.queued_at <= now - GIVE_UP_SECONDS)
    count, last = connection.execute(
        select(func.count(), func.max(queue.c.serial)).where(*old)
    ).one()
    if count:
        connection.execute(delete(queue).where(*old))
        _update(connection, key, position=last, dropped=targets.c.dropped + count)
    return state(connection, key)


def _forget(connection: Connection, key: Key, item: Item) -> None:
    connection.execute(
        delete(queue).where(
            *of(queue, key), queue.c.serial == item.serial, queue.c.number == item.number
        )
    )


def _update(connection: Connection, key: Key, **values: object) -> None:
    connection.execute(update(targets).where(*of(targets, key)).values(**values))
