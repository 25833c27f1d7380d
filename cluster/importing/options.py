"""A dump's index options, as an index here takes them (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve, frozen

from cluster.errors import InvalidRequest
from cluster.model import Index
from cluster.names import IndexName
from cluster.state.options import parse_options

_DEFAULT_KIND = "stage"


@frozen
class Taken:
    """An index made of a dump's options.

    `secrets` are as in `parse_options`. `notes` say what has no effect here, `problems` name
    options whose values no index here can have.
    """

    index: Index
    secrets: Mapping[str, str]
    notes: tuple[str, ...]
    problems: tuple[str, ...]


def take_options(name: IndexName, dumped: Mapping[str, Any]) -> Taken:
    """Make an index of a dump's options; raises InvalidRequest for a plugin's type of index.

    Options that nobody here knows are kept, as devpi-import keeps them.
    """
    kind = str(dumped.get("type", _DEFAULT_KIND))
    accepted: dict[str, Any] = {"type": kind}
    parse_options(name, accepted)
    unknown: dict[str, Any] = {}
    problems = []
    for key, value in _renewed(name, kind, dumped).items():
        try:
            parse_options(name, {"type": kind, key: value})
        except InvalidRequest as error:
            if "unexpected keyword" in str(error):
                unknown[key] = value
            else:
                problems.append(f"option {key} is left out: {error}")
        else:
            accepted[key] = value
    parsed = parse_options(name, accepted)
    notes = [*parsed.notes, *(f"option {key} is kept, but nothing here uses it" for key in unknown)]
    index = evolve(parsed.index, options={**parsed.index.options, **unknown})
    return Taken(index, parsed.secrets, tuple(notes), tuple(problems))


def _renewed(name: IndexName, kind: str, dumped: Mapping[str, Any]) -> dict[str, Any]:
    """What older servers wrote, as today's would."""
    options = {key: value for key, value in dumped.items() if key not in ("type", "projects")}
    if "pypi_whitelist" in options:
        options.setdefault("mirror_whitelist", options.pop("pypi_whitelist"))
        options.pop("pypi_whitelist", None)
    if not options.get("uploadtrigger_jenkins", True):
        del options["uploadtrigger_jenkins"]
    if kind == _DEFAULT_KIND:
        # Indexes from before this option are resolved as with "union" by devpi.
        options.setdefault("mirror_whitelist_inheritance", "union")
        bases = options.get("bases")
        if isinstance(bases, list):
            options["bases"] = [base for base in bases if base != name]
    return options


def bases_first(indexes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names of indexes (with their options) in an order in which bases come before heirs.

    Within a circle of bases the order is that of the names.
    """
    ordered: dict[str, None] = {}
    waiting: list[tuple[str, bool]] = [(name, False) for name in sorted(indexes, reverse=True)]
    entered: set[str] = set()
    while waiting:
        name, done = waiting.pop()
        if done:
            ordered[name] = None
        elif name in indexes and name not in entered:
            entered.add(name)
            waiting.append((name, True))
            bases = indexes[name].get("bases") or ()
            waiting += [(str(base), False) for base in reversed(list(bases))]
    return list(ordered)
