"""Range headers and conditions, against RFC 9110."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.files.ranges import (
    RangeNotSatisfiable,
    Span,
    content_range,
    http_date,
    if_none_match,
    if_range_matches,
    not_modified_since,
    parse_date,
    parse_range,
)

SIZES = st.integers(0, 1 << 40)
TAG = "a" * 64


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", Span(0, 1)),
        ("bytes=0-99", Span(0, 100)),
        ("bytes=0-5000", Span(0, 100)),
        ("bytes=99-", Span(99, 100)),
        ("bytes=-1", Span(99, 100)),
        ("bytes=-1000", Span(0, 100)),
        ("Bytes = 3 - 4 ", Span(3, 5)),
        ("bytes=0-1,5-6", None),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("items=0-1", None),
        ("bytes=0x1-2", None),
        ("bytes=+1-2", None),
        ("bytes=٣-٤", None),
        ("bytes=0-" + "9" * 5000, None),
    ],
)
def test_ranges_of_a_hundred_bytes(header: str | None, expected: Span | None) -> None:
    """Single ranges are cut out; several, malformed and foreign ones mean the whole file."""
    assert parse_range(header, 100) == expected


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=100-", 100), ("bytes=-0", 9), ("bytes=0-", 0), ("bytes=-5", 0)]
)
def test_ranges_outside_the_file(header: str, size: int) -> None:
    """A well-formed range without a single byte of the file is refused."""
    with pytest.raises(RangeNotSatisfiable):
        parse_range(header, size)


@given(SIZES, st.integers(0, 1 << 41), st.integers(0, 1 << 41))
def test_every_span_lies_in_the_file(size: int, first: int, last: int) -> None:
    """Whatever is asked for, a span is not empty, inside the file, and where it was asked."""
    try:
        span = parse_range(f"bytes={first}-{last}", size)
    except RangeNotSatisfiable:
        assert first >= size
    else:
        if span is None:
            assert last < first
        else:
            assert 0 <= span.start == first < span.stop == min(last + 1, size)
            assert content_range(span, size) == f"bytes {first}-{span.stop - 1}/{size}"


@given(SIZES, st.integers(1, 1 << 41))
def test_a_suffix_is_the_end(size: int, length: int) -> None:
    """`-n` is the last n bytes, or the whole of a smaller file."""
    if size == 0:
        with pytest.raises(RangeNotSatisfiable):
            parse_range(f"bytes=-{length}", size)
    else:
        assert parse_range(f"bytes=-{length}", size) == Span(max(0, size - length), size)


@given(st.text(), SIZES)
def test_no_header_text_breaks_the_parsers(header: str, size: int) -> None:
    """Any text at all is either understood or ignored."""
    try:
        parse_range(header, size)
    except RangeNotSatisfiable:
        assert "bytes" in header.lower()
    parse_date(header)
    if_none_match(header, TAG)
    if_range_matches(header, TAG, 0)


def test_if_range_compares_strongly() -> None:
    """A weak tag, another tag or another date never lets a part be joined to old bytes."""
    assert if_range_matches(None, TAG, None)
    assert if_range_matches(f'"{TAG}"', TAG, None)
    assert not if_range_matches(f'W/"{TAG}"', TAG, None)
    assert not if_range_matches('"other"', TAG, None)
    assert not if_range_matches(f'"{TAG}"', None, None)
    assert if_range_matches(http_date(1_700_000_000), TAG, 1_700_000_000)
    assert not if_range_matches(http_date(1_700_000_001), TAG, 1_700_000_000)
    assert not if_range_matches(http_date(1_700_000_000), TAG, None)


def test_if_none_match_compares_weakly() -> None:
    """Weak, listed and starred tags all spare the body."""
    assert if_none_match(f'"x", W/"{TAG}"', TAG)
    assert if_none_match("*", TAG)
    assert not if_none_match('"x"', TAG)
    assert not if_none_match("*", None)
    assert not if_none_match(None, TAG)


@given(st.integers(0, 4_000_000_000))
def test_dates_survive_the_header(seconds: int) -> None:
    """An HTTP date is read back as the second it was made from."""
    assert parse_date(http_date(seconds)) == seconds
    assert not_modified_since(http_date(seconds), seconds)
    assert not not_modified_since(http_date(seconds), seconds + 1)


def test_a_span_cannot_be_backwards() -> None:
    """Spans are checked at birth."""
    with pytest.raises(ValueError, match="before its start"):
        Span(2, 1)
