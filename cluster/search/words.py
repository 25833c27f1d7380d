"""What people type into a search field, as an FTS5 expression that is always valid (pure).

The language: words, ``"quoted phrases"``, ``prefix*``, ``AND``, ``OR``, ``NOT``. Words side by
side must all be there; ``OR`` begins another choice; ``NOT`` excludes the next word. Whatever
else is typed counts as a space. Text that asks for nothing gives no expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

from attrs import define, field

from cluster.errors import InvalidRequest

FIELDS: Final = ("name", "summary", "keywords", "classifiers", "author", "description")
"""What can be searched one by one."""

MAX_CHARACTERS: Final = 1_000
MAX_TERMS: Final = 32  # FTS5 takes expressions up to 256 deep
_TERM = re.compile(r"""(?P<mark>["'])(?P<phrase>.+?)(?P=mark)(?P<star>\*?)|(?P<word>\S+)""")
_OPERATORS = ("AND", "OR", "NOT")


@define
class _Choice:
    """Terms that must all be there, and terms that must not."""

    wanted: list[str] = field(factory=list)
    refused: list[str] = field(factory=list)

    def expression(self) -> str | None:
        """FTS5 knows NOT only as an operator between two: exclusions alone find nothing."""
        if not self.wanted:
            return None
        text = " AND ".join(self.wanted)
        return f"({text}) NOT ({' OR '.join(self.refused)})" if self.refused else f"({text})"


def expression(text: str, *, prefixes: bool = False) -> str | None:
    """An FTS5 expression for a text, or None for one that asks for nothing.

    With `prefixes` every word also finds longer words that begin with it.
    """
    choices = [_Choice()]
    refuse = False
    for term in _terms(text, prefixes):
        if term == "OR":
            choices.append(_Choice())
        elif term == "NOT":
            refuse = True
        elif term != "AND":
            (choices[-1].refused if refuse else choices[-1].wanted).append(term)
            refuse = False
    found = [e for e in (choice.expression() for choice in choices) if e is not None]
    return " OR ".join(found) or None


def in_fields(spec: Mapping[str, Sequence[str]], operator: Literal["and", "or"]) -> str | None:
    """An expression for texts by field, joined by `operator`; the words of a name are prefixes.

    Raises InvalidRequest for a field that does not exist.
    """
    parts = []
    for name, texts in spec.items():
        if name not in FIELDS:
            raise InvalidRequest(f"{name!r} cannot be searched; fields are {', '.join(FIELDS)}")
        for text in texts:
            inner = expression(text, prefixes=name == "name")
            parts.append(inner and f"{{{name}}} : ({inner})")
    found = [part for part in parts if part is not None]
    if operator == "and" and len(found) < len(parts):
        return None  # one of the things that must all be there can be nowhere
    return f" {operator.upper()} ".join(f"({part})" for part in found[:MAX_TERMS]) or None


def _terms(text: str, prefixes: bool) -> Iterator[str]:
    """Operators as they are, and everything else quoted, so that nothing in it has a meaning."""
    printable = "".join(c if c.isprintable() and c not in "()" else " " for c in text)
    for at, match in enumerate(_TERM.finditer(printable[:MAX_CHARACTERS])):
        if at >= MAX_TERMS:
            return
        word = match["word"]
        if word in _OPERATORS:
            yield word
            continue
        content = word if word is not None else match["phrase"]
        is_prefix = prefixes or (word or match["star"] or "").endswith("*")
        if any(c.isalnum() for c in content):
            yield '"' + content.replace('"', " ").strip("* ") + '"' + ("*" if is_prefix else "")
