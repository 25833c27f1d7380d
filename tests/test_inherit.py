"""Resolution through bases, against a slow and obvious reading of devpi-api §7."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.model import HostedIndex, Index, MirrorIndex
from cluster.names import IndexName, NormalizedName
from cluster.state.inherit import order, resolve

NAMES = [IndexName(f"u/{letter}") for letter in "abcdefg"]
FOO = NormalizedName("foo")

Graph = Mapping[IndexName, Index]


def hosted(name: str, *bases: str, white: tuple[str, ...] = (), mode: str = "intersection",
           ) -> HostedIndex:  # fmt: skip
    return HostedIndex(
        IndexName(f"u/{name}"),
        bases=tuple(IndexName(f"u/{base}") for base in bases),
        mirror_whitelist=white,
        mirror_whitelist_inheritance=mode,
    )


def mirror(name: str) -> MirrorIndex:
    return MirrorIndex(IndexName(f"u/{name}"), mirror_url="https://upstream.example/simple/")


def graph(*indexes: Index) -> Graph:
    return {index.name: index for index in indexes}


def distance_and_path(start: Index, known: Graph) -> list[IndexName]:
    """Rule 1, first half: level by level, each level left to right, each index once."""
    levels: list[list[IndexName]] = [[start.name]]
    met = [start.name]
    while levels[-1]:
        following: list[IndexName] = []
        for name in levels[-1]:
            index = known[name]
            for base in getattr(index, "bases", ()):
                if base in known and base not in met:
                    met.append(base)
                    following.append(base)
        levels.append(following)
    return met


def oracle(start: Index, known: Graph, owners: frozenset[IndexName]) -> list[IndexName]:
    """Rules 1 to 5, one after the other."""
    walk = [known[name] for name in distance_and_path(start, known)]
    stages = [index for index in walk if isinstance(index, HostedIndex)]
    mirrors = [index for index in walk if isinstance(index, MirrorIndex)]
    allowed: set[str] = set()
    whitelisted = False
    for number, stage in enumerate(stages):
        own = set(stage.mirror_whitelist)
        # "*" stands for every name there is; only foo and "other" occur here.
        if "*" in own:
            own = {"foo", "other"}
        if number == 0:
            allowed = own
        elif stages[0].mirror_whitelist_inheritance == "union":
            allowed = allowed | own
        else:
            allowed = allowed & own
        whitelisted = whitelisted or "foo" in allowed
    private = any(stage.name in owners for stage in stages)
    contributing = [stage.name for stage in stages if stage.name in owners]
    if whitelisted or not private:
        contributing += [index.name for index in mirrors]
    return contributing


def literal(start: Index, known: Graph, owners: frozenset[IndexName]) -> list[IndexName]:
    """The walk as devpi-api §7 tells it: what is reachable twice is visited twice."""
    todo, seen, visits = [start], set[IndexName](), list[Index]()
    while todo:
        index = todo.pop(0)
        visits.append(index)
        seen.add(index.name)
        bases = index.bases if isinstance(index, HostedIndex) else ()
        todo += [known[base] for base in bases if base in known and base not in seen]
    visits.sort(key=lambda index: isinstance(index, MirrorIndex))
    whitelist: set[str] | None = None
    hit = whitelisted = False
    found: list[IndexName] = []
    for index in visits:
        if isinstance(index, HostedIndex):
            own = set(index.mirror_whitelist)
            union = getattr(start, "mirror_whitelist_inheritance", None) == "union"
            before = own if whitelist is None else whitelist
            whitelist = before | own if union else before & own
            whitelisted = whitelisted or bool(whitelist & {"foo", "*"})
            hit = hit or index.name in owners
            contributes = index.name in owners
        else:
            contributes = whitelisted or not hit
        if contributes and index.name not in found:
            found.append(index.name)
    return found


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Any graph over a few names: cycles, missing bases, mirrors anywhere."""
    known: dict[IndexName, Index] = {}
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True)):
        if draw(st.integers(0, 2)) == 0:
            known[name] = MirrorIndex(name, mirror_url="https://upstream.example/simple/")
            continue
        known[name] = HostedIndex(
            name,
            bases=tuple(draw(st.lists(st.sampled_from(NAMES), max_size=4))),
            mirror_whitelist=tuple(draw(st.lists(st.sampled_from(("foo", "other", "*"))))),
            mirror_whitelist_inheritance=draw(st.sampled_from(("union", "intersection"))),
        )
    return known


@settings(max_examples=300)
@given(st.data(), graphs())
def test_resolve_is_what_the_rules_say(data: st.DataObject, known: Graph) -> None:
    """For any graph of bases and any owners of a name, the contributing indexes are the rules'."""
    start = known[data.draw(st.sampled_from(sorted(known)))]
    owners = data.draw(st.frozensets(st.sampled_from(NAMES)))
    found = resolve(start, known.get, FOO, lambda index: index.name in owners)
    assert [index.name for index in found] == oracle(start, known, owners)
    assert oracle(start, known, owners) == literal(start, known, owners)


@settings(max_examples=300)
@given(st.data(), graphs())
def test_order(data: st.DataObject, known: Graph) -> None:
    """Every index that can be reached is visited once, from near to far, mirrors last."""
    start = known[data.draw(st.sampled_from(sorted(known)))]
    found = order(start, known.get)
    reached = distance_and_path(start, known)
    assert sorted(index.name for index in found) == sorted(reached)
    for kind in (HostedIndex, MirrorIndex):
        same = [index.name for index in found if isinstance(index, kind)]
        assert same == [name for name in reached if isinstance(known[name], kind)]
    kinds = [isinstance(index, MirrorIndex) for index in found]
    assert kinds == sorted(kinds)


def names(found: list[Index]) -> list[str]:
    return [index.name.partition("/")[2] for index in found]


def test_breadth_comes_before_depth() -> None:
    """Rule 1: both bases of the start come before a base of the first, a mirror after all."""
    known = graph(hosted("a", "m", "b", "c"), hosted("b", "d"), hosted("c"), hosted("d"),
                  mirror("m"))  # fmt: skip
    assert names(order(known[NAMES[0]], known.get)) == ["a", "b", "c", "d", "m"]


@pytest.mark.parametrize(
    ("white", "mode", "base_white", "mirrored"),
    [
        ((), "intersection", (), False),
        (("foo",), "intersection", (), True),
        (("*",), "intersection", (), True),
        ((), "intersection", ("foo",), False),
        ((), "union", ("foo",), True),
        ((), "union", ("*",), True),
        (("other",), "union", ("other",), False),
    ],
)
def test_private_names_hide_mirrors(
    white: tuple[str, ...], mode: str, base_white: tuple[str, ...], mirrored: bool
) -> None:
    """Rules 3 and 4: a name that a hosted index has never comes from a mirror, unless allowed."""
    start = hosted("a", "b", white=white, mode=mode)
    known = graph(start, hosted("b", "m", white=base_white), mirror("m"))
    found = resolve(start, known.get, FOO, lambda index: index.name == "u/b")
    assert names(found) == (["b", "m"] if mirrored else ["b"])


def test_a_mirror_alone() -> None:
    """A mirror that is asked directly contributes itself."""
    alone = mirror("m")
    assert resolve(alone, graph(alone).get, FOO, lambda index: False) == [alone]


def test_bases_that_are_gone_cycles_and_repetitions() -> None:
    """Rule 1: a base may be missing, lead back, or be named twice; each index counts once."""
    known = graph(hosted("a", "b", "x", "b", "c"), hosted("b", "a", "c"), hosted("c", "b", "a"))
    assert names(order(known[NAMES[0]], known.get)) == ["a", "b", "c"]


def test_mirrors_are_not_asked_for_presence() -> None:
    """Rule 5: a hosted index's name is enough to hide mirrors; what mirrors have is no matter."""
    known = graph(hosted("a", "m", "b"), hosted("b"), mirror("m"))
    asked = list[str]()

    def has(index: Index) -> bool:
        asked.append(index.name)
        return index.name == "u/b"

    assert names(resolve(known[NAMES[0]], known.get, FOO, has)) == ["b"]
    assert asked == ["u/a", "u/b"]


@pytest.mark.parametrize(
    ("top", "base", "mirrored"),
    [("union", "intersection", True), ("intersection", "union", False)],
)
def test_the_queried_index_says_how_lists_combine(top: str, base: str, mirrored: bool) -> None:
    """Rule 4: the mode of the index that is asked counts, not that of its bases."""
    known = graph(hosted("a", "b", mode=top), hosted("b", "m", white=("foo",), mode=base),
                  mirror("m"))  # fmt: skip
    found = resolve(known[NAMES[0]], known.get, FOO, lambda index: index.name == "u/a")
    assert names(found) == (["a", "m"] if mirrored else ["a"])


def test_a_base_is_resolved_on_its_own_terms() -> None:
    """Rule 4: the walk begins at the index that is asked; what is above it does not count."""
    known = graph(hosted("a", "b", white=("foo",)), hosted("b", "m"), mirror("m"))
    has_everywhere = lambda index: True  # noqa: E731
    assert names(resolve(known[NAMES[0]], known.get, FOO, has_everywhere)) == ["a", "b", "m"]
    assert names(resolve(known[NAMES[1]], known.get, FOO, has_everywhere)) == ["b"]
