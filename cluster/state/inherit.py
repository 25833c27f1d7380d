"""Resolution through bases, as devpi does it (pure; rules by number of devpi-api §7).

`resolve` says which indexes contribute to a project's page, in order. It needs two facts,
given as functions, so that it can be tested against a slow, obvious oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from cluster.model import HostedIndex, Index, MirrorIndex
from cluster.names import IndexName, NormalizedName

GetIndex = Callable[[IndexName], Index | None]


def order(start: Index, get: GetIndex) -> list[Index]:
    """Breadth first through bases, left to right; every mirror moves to the end (rule 1).

    A base that does not exist is skipped. One that is reached twice counts once; devpi visits it
    twice, which shows in ``+shadowing`` alone.
    """
    seen, queue, stages, mirrors = {start.name}, [start], list[Index](), list[Index]()
    while queue:
        index = queue.pop(0)
        (mirrors if isinstance(index, MirrorIndex) else stages).append(index)
        for base in index.bases if isinstance(index, HostedIndex) else ():
            found = None if base in seen else get(base)
            if found is not None:
                seen.add(base)
                queue.append(found)
    return stages + mirrors


def resolve(
    start: Index,
    get: GetIndex,
    project: NormalizedName,
    has_project: Callable[[Index], bool],
) -> list[Index]:
    """The indexes that contribute to a project, first wins for a file name (rules 2-5).

    A mirror contributes only when no hosted index before it has the project's name, unless the
    project is whitelisted: a public name can never slip in beside a private one.
    """
    walk = order(start, get)
    whitelists = dict(_whitelists(start, walk))
    contributing: list[Index] = []
    owned = whitelisted = False
    for index in walk:
        allowed = whitelists.get(index.name, frozenset())
        whitelisted = whitelisted or "*" in allowed or project in allowed
        if isinstance(index, MirrorIndex):
            if not owned or whitelisted:
                contributing.append(index)
        else:
            if has_project(index):
                owned = True
                contributing.append(index)
    return contributing


def _whitelists(start: Index, walk: list[Index]) -> Iterator[tuple[IndexName, frozenset[str]]]:
    """The whitelist in force when each hosted index is visited (rule 4).

    Every index says how lists combine. devpi's stored ones that do not say it mean union: that
    is for who imports them to write down.
    """
    if not isinstance(start, HostedIndex):
        return
    mode: Literal["union", "intersection"] | str = start.mirror_whitelist_inheritance
    combined: frozenset[str] | None = None
    for index in walk:
        if not isinstance(index, HostedIndex):
            continue
        own = frozenset(index.mirror_whitelist)
        if combined is None:
            combined = own
        elif mode == "union":
            combined = combined | own
        else:
            combined = _intersection(combined, own)
        yield index.name, combined


def _intersection(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    if "*" in one:
        return other
    return one if "*" in other else one & other
