"""Entries: canonical bytes, and nothing but LogError from whatever bytes come."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InvalidRequest, LogError, UnknownFormat
from cluster.log.changes import MAX_ENTRY_BYTES, Change, Entry, Kind, decode, encode, in_parts
from tests.fakes import TIME, entry, user_set
from tests.strategies import json_values

RESERVED = {"serial", "epoch", "time", "actor", "kind", "format"}
payloads = st.dictionaries(st.text(max_size=10), json_values, max_size=5).filter(
    lambda payload: not RESERVED & payload.keys()
)


def test_golden_bytes() -> None:
    """An entry is exactly these bytes: other programs may hash and sign them."""
    change = Change(Kind.USER_SET, {"user": "äß", "options": {"b": [1, None, True], "a": "\n"}})
    assert encode(change, serial=7, epoch=2, time=TIME, actor="root").raw.decode() == (
        '{"actor":"root","epoch":2,"format":1,"kind":"user.set",'
        '"options":{"a":"\\n","b":[1,null,true]},"serial":7,'
        '"time":"2023-11-14T22:13:20.000000Z","user":"äß"}'
    )


@given(st.sampled_from(Kind), payloads, st.integers(1, 2**53), st.integers(0, 2**31), st.text())
def test_round_trip(kind: Kind, payload: Any, serial: int, epoch: int, actor: str) -> None:
    """What is decoded is what was encoded, and its bytes are canonical JSON on one line."""
    change = Change(kind, payload)
    made = encode(change, serial=serial, epoch=epoch, time=TIME, actor=actor)
    assert decode(made.raw) == made
    assert b"\n" not in made.raw
    plain = json.dumps(
        json.loads(made.raw), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    assert json.loads(plain) == json.loads(made.raw)
    keys = list(json.loads(made.raw))
    assert keys == sorted(keys, key=lambda key: key.encode())


@given(payloads)
def test_key_order_does_not_matter(payload: dict[str, Any]) -> None:
    """Equal payloads have equal bytes, however they were put together."""
    turned = dict(reversed(payload.items()))
    assert (
        entry(1, Change(Kind.USER_SET, turned)).raw == entry(1, Change(Kind.USER_SET, payload)).raw
    )


@pytest.mark.parametrize(
    "value",
    [
        1.5, float("nan"), float("inf"), [0.0], {"a": {"b": 1e9}}, {1: "x"}, {"a": {None: 1}},
        "\ud800", 2**64, object(), {"a"}, b"bytes",
    ],
)  # fmt: skip
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    """Floats, odd keys, odd texts and numbers beyond 64 bits are the sender's error."""
    with pytest.raises(InvalidRequest):
        entry(1, Change(Kind.USER_SET, {"user": "ann", "options": {"value": value}}))


def test_deep_values_are_refused() -> None:
    """A value nested deeper than any reader takes is refused, without a RecursionError."""
    deep: Any = 1
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(InvalidRequest):
        entry(1, user_set("ann", custom_data=deep))


@pytest.mark.parametrize("key", sorted(RESERVED))
def test_payloads_cannot_forge_the_head(key: str) -> None:
    """A payload with a key of the head is a mistake in our program, and stops it."""
    with pytest.raises(ValueError, match="reserved"):
        entry(1, Change(Kind.USER_SET, {"user": "ann", key: 1}))


def test_longest_entry() -> None:
    """An entry of 65,535 bytes is taken, of one byte more is not."""
    room = MAX_ENTRY_BYTES - len(entry(1, user_set("")).raw)
    longest = entry(1, user_set("x" * room))
    assert len(longest.raw) == MAX_ENTRY_BYTES
    assert decode(longest.raw) == longest
    with pytest.raises(InvalidRequest, match="65536 bytes"):
        entry(1, user_set("x" * (room + 1)))
    with pytest.raises(LogError, match="65536"):
        decode(longest.raw + b" ")


def changed(**values: Any) -> bytes:
    """A good entry with some fields replaced."""
    return orjson.dumps({**orjson.loads(entry(3, user_set("ann")).raw), **values})


@pytest.mark.parametrize(
    "raw",
    [
        changed(kind="user.cloned"), changed(kind=None), changed(kind=5), changed(format=2),
        changed(format=0), changed(format="1"), changed(format=None), changed(format=True),
    ],
)  # fmt: skip
def test_news_stops_us(raw: bytes) -> None:
    """A kind or format that we do not know says "upgrade", so it is never skipped."""
    with pytest.raises(UnknownFormat, match="upgrade"):
        decode(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"x", b"null", b"[]", b'"a"', b"7", b"{}", b"\xff\xfe", b"{" * 70_000, b"[" * 60_000,
        changed(serial=0), changed(serial=-1), changed(serial="1"), changed(serial=1.0),
        changed(serial=True), changed(epoch=None), changed(epoch=False), changed(epoch=-1),
        changed(time="yesterday"), changed(time=5), changed(time=TIME + "\n"), changed(actor=None),
        changed(time=TIME.replace("2", "٢")),
    ],
)  # fmt: skip
def test_malformed_entries(raw: bytes) -> None:
    """What is not an entry is a LogError, and not "upgrade"."""
    with pytest.raises(LogError) as caught:
        decode(raw)
    assert not isinstance(caught.value, UnknownFormat)


@given(st.binary(max_size=200))
def test_random_bytes_raise_only_log_errors(raw: bytes) -> None:
    """Random bytes never crash the decoder."""
    with pytest.raises(LogError):
        decode(raw)


@given(st.data())
def test_mutated_entries_raise_only_log_errors(data: st.DataObject) -> None:
    """Entries with bytes replaced, cut out or doubled decode or raise LogError."""
    raw = bytearray(entry(3, user_set("ann", title="x")).raw)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        end = data.draw(st.integers(at, min(len(raw), at + 8)))
        raw[at:end] = data.draw(st.binary(max_size=6))
        if not raw:
            break
    _decoded_or_log_error(bytes(raw))


@given(
    st.dictionaries(
        st.sampled_from([*sorted(RESERVED), "user", "part", "parts"]),
        st.none() | json_values | st.floats(),
    )
)
def test_any_object_raises_only_log_errors(values: dict[str, Any]) -> None:
    """JSON objects with any value in any field decode or raise LogError."""
    _decoded_or_log_error(orjson.dumps({**orjson.loads(entry(3, user_set("a")).raw), **values}))


def _decoded_or_log_error(raw: bytes) -> None:
    try:
        found = decode(raw)
    except LogError:
        return
    assert isinstance(found, Entry)
    assert found.raw == raw
    assert found.serial >= 1
    assert found.ends_group in (True, False)


def items(count: int, size: int) -> list[tuple[str, Any]]:
    return [("files", f"{n:06d}" + "x" * (size - 6)) for n in range(count)]


def test_small_changes_are_one_part() -> None:
    """What fits into one entry is not numbered."""
    [change] = in_parts(Kind.MIRROR_PROJECT, {"index": "root/pypi"}, items(3, 10))
    assert "parts" not in change.payload
    assert entry(1, change).ends_group


def test_no_items_are_one_part() -> None:
    """A change of facts alone is recorded too."""
    [change] = in_parts(Kind.MIRROR_PROJECT, {"index": "root/pypi", "status": {}}, [])
    assert change.payload == {"index": "root/pypi", "status": {}}


@given(st.lists(st.tuples(st.sampled_from(("files", "removed")), st.integers(6, 30_000)),
                min_size=1, max_size=40))  # fmt: skip
def test_parts_hold_everything_in_order(wanted: list[tuple[str, int]]) -> None:
    """Parts fit into entries, are numbered, end once, and hold each item once, in order."""
    given_items = [(name, f"{n:06d}" + "x" * (size - 6)) for n, (name, size) in enumerate(wanted)]
    common = {"index": "root/pypi", "project": "foo"}
    parts = in_parts(Kind.MIRROR_PROJECT, common, given_items)
    made = [entry(n, change) for n, change in enumerate(parts, start=1)]
    assert [e.ends_group for e in made] == [False] * (len(made) - 1) + [True]
    assert all(len(e.raw) <= MAX_ENTRY_BYTES for e in made)
    assert all(common.items() <= e.payload.items() for e in made)
    for name in ("files", "removed"):
        found = [value for e in made for value in e.payload.get(name, [])]
        assert found == [value for key, value in given_items if key == name]


def test_most_parts() -> None:
    """A change that no page of the log could hold is refused."""
    big = 60_000
    assert len(in_parts(Kind.MIRROR_PROJECT, {}, items(256, big))) == 256
    with pytest.raises(InvalidRequest, match="257 parts"):
        in_parts(Kind.MIRROR_PROJECT, {}, items(257, big))


def test_one_item_beyond_an_entry() -> None:
    """An item that fits into no entry is refused when it is encoded."""
    [change] = in_parts(Kind.MIRROR_PROJECT, {}, items(1, 70_000))
    with pytest.raises(InvalidRequest):
        entry(1, change)
