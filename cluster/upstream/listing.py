"""The names of an upstream's project list, streamed with flat memory (pure; PEP 503, 691).

The list of a large upstream has 700,000 names in 40 MB, so no document is ever built.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html import unescape
from typing import BinaryIO

import ijson  # type: ignore[import-untyped]
from attrs import Factory, define

from cluster.errors import InvalidRequest, UpstreamError
from cluster.names import project_name

# No "<" or ">" inside: each attempt ends at the next tag, so hostile input costs linear time.
_ANCHOR = re.compile(rb"<a(?:\s[^<>]*)?>([^<>]*)</a\s{0,9}>", re.IGNORECASE)
_MAX_ANCHOR = 4096  # bytes; what is longer is no name
_MAX_TEXT = 1024


def iter_names_html(chunks: Iterable[bytes]) -> Iterator[str]:
    """The project names of an HTML list, as spelled in the link texts; others are skipped.

    `chunks` are the bytes of the page, cut anywhere.
    """
    tail = b""
    for chunk in chunks:
        window = tail + chunk
        end = 0
        for anchor in _ANCHOR.finditer(window):
            end = anchor.end()
            text = anchor[1][:_MAX_TEXT].decode("ascii", "replace")
            # Directory listings of web servers write "name/".
            name = unescape(text).strip().removesuffix("/")
            if _is_name(name):
                yield name
        tail = window[max(end, len(window) - _MAX_ANCHOR) :]


def iter_names_json(file: BinaryIO) -> Iterator[str]:
    """The project names of a JSON list (PEP 691), as spelled; others are skipped.

    Raises UpstreamError, perhaps after some names, if the document is not such a list.
    """
    at = _Place()
    try:
        # Not `ijson.parse`: the paths it keeps take gigabytes for a deep document. And with
        # `use_float` an integer of thousands of digits is an error, without it a crash in C.
        for event, value in ijson.basic_parse(file, use_float=True):
            if event not in ("string", "number"):
                at.follow(event, value)
            elif at.is_name():
                if event == "string" and _is_name(value):
                    yield value
            elif at.is_api_version() and str(value).partition(".")[0] != "1":
                raise UpstreamError(f"unknown version of the simple API: {str(value)[:20]!a}")
    except (ijson.JSONError, ValueError) as e:
        raise UpstreamError(f"not a project list: {str(e)[:100]!a}") from e
    if not at.saw_list:
        raise UpstreamError("not a project list: JSON without projects")


@define
class _Place:
    """Where in the document the reader is; of what lies deeper than a name only the depth."""

    depth: int = 0
    opened: list[str] = Factory(lambda: ["", "", ""])
    keys: list[str] = Factory(lambda: ["", "", ""])
    saw_list: bool = False

    def follow(self, event: str, value: object) -> None:
        if event == "map_key":
            if self.depth <= len(self.keys):
                self.keys[self.depth - 1] = str(value)
        elif event in ("start_map", "start_array"):
            if self.depth < len(self.opened):
                self.opened[self.depth] = event
                self.keys[self.depth] = ""
            self.depth += 1
            self.saw_list = self.saw_list or (self._in_list() and self.depth == 2)
        elif event in ("end_map", "end_array"):
            self.depth -= 1

    def is_name(self) -> bool:
        inside = self.depth == 3 and self.opened[2] == "start_map" and self.keys[2] == "name"
        return inside and self._in_list()

    def is_api_version(self) -> bool:
        return self.depth == 2 and self.keys[:2] == ["meta", "api-version"]

    def _in_list(self) -> bool:
        return self.opened[:2] == ["start_map", "start_array"] and self.keys[0] == "projects"


def _is_name(text: str) -> bool:
    try:
        project_name(text)
    except InvalidRequest:
        return False
    return True
