"""The start tags of an HTML page, in one forward pass (pure).

`html.parser` of several supported Pythons takes quadratic time for some broken pages: two
megabytes of ``<a `` would keep a thread for hours. Here, as in the HTML standard's tokenizer,
what does not end before the page does is the end of the page, so no byte is read twice over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape

Attributes = dict[str, str | None]

_MARKUP = re.compile(r"<(?:(!--)|([!?/])|([a-zA-Z][^\s/>]*+))")
_ATTRIBUTE = re.compile(
    r"""[\s/]*+(?:(>)|([^\s/>][^\s/>=]*+)"""
    r"""(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>"'][^\s>]*+)))?)"""
)
_RAW_TEXT = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    for name in ("script", "style", "title", "textarea")
}


def iter_tags(text: str) -> Iterator[tuple[str, Attributes]]:
    """The start tags in order: lower-case name, and attributes (of doubles the first).

    An attribute without a value has None. Comments and the contents of scripts are no tags.
    """
    at: int | None = 0
    while at is not None and (found := _MARKUP.search(text, at)):
        comment, other, name = found.groups()
        if comment:
            at = _behind(text, "-->", found.end())
        elif other:
            at = _behind(text, ">", found.end())
        else:
            attributes, at = _attributes(text, found.end())
            if at is None:
                return
            name = name.lower()
            yield name, attributes
            if name in _RAW_TEXT:
                end = _RAW_TEXT[name].search(text, at)
                at = end.end() if end else None


def _attributes(text: str, at: int) -> tuple[Attributes, int | None]:
    """The attributes of the tag whose name ends at `at`, and where the tag ends, if it does."""
    attributes: Attributes = {}
    while match := _ATTRIBUTE.match(text, at):
        at = match.end()
        end, name, *values = match.groups()
        if end:
            return attributes, at
        value = next((v for v in values if v is not None), None)
        attributes.setdefault(name.lower(), None if value is None else _unescaped(value))
    return attributes, None


def _unescaped(value: str) -> str:
    try:
        return unescape(value)
    except ValueError:  # a character reference of thousands of digits
        return value


def _behind(text: str, end: str, start: int) -> int | None:
    found = text.find(end, start)
    return None if found < 0 else found + len(end)
