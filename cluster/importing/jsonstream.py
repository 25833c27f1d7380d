"""A JSON document of any size, value by value: a dump's index has every README in it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, BinaryIO

import ijson  # type: ignore[import-untyped]

from cluster.errors import InvalidRequest

Event = tuple[str, Any]


class Cursor:
    """Reads one JSON object out of an open file.

    Descend into the values that are large, take others whole. Numbers with a fraction become
    text: the change log has none. Raises InvalidRequest for what is not JSON.
    """

    def __init__(self, document: BinaryIO) -> None:
        self._events: Iterator[Event] = iter(ijson.basic_parse(document))
        self._next = self._read()

    def fields(self) -> Iterator[str]:
        """The keys of the object that is next; take or descend into each one's value."""
        self._enter("start_map")
        while self._next[0] != "end_map":
            _, key = self._advance()
            yield str(key)
        self._advance()

    def items(self) -> Iterator[Any]:
        """The values of the array that is next, each whole."""
        self._enter("start_array")
        while self._next[0] != "end_array":
            yield self.take()
        self._advance()

    def take(self) -> Any:
        """The value that is next, whole."""
        event, value = self._advance()
        if event == "start_map":
            result: dict[str, Any] = {}
            while self._next[0] != "end_map":
                _, key = self._advance()
                result[str(key)] = self.take()
            self._advance()
            return result
        if event == "start_array":
            items = []
            while self._next[0] != "end_array":
                items.append(self.take())
            self._advance()
            return items
        return _without_fraction(value) if isinstance(value, Decimal) else value

    def _enter(self, event: str) -> None:
        if self._next[0] != event:
            wanted = "an object" if event == "start_map" else "a list"
            raise InvalidRequest(f"{wanted} was expected in this JSON, not {self._next!r}")
        self._advance()

    def _advance(self) -> Event:
        current, self._next = self._next, self._read()
        return current

    def _read(self) -> Event:
        try:
            return next(self._events, ("end", None))
        except ijson.JSONError as error:
            raise InvalidRequest(f"this is not whole JSON: {error}") from None


def _without_fraction(number: Decimal) -> int | str:
    return int(number) if number == number.to_integral_value() else str(number)
