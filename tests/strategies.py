"""Random logs: small alphabets, so that changes meet and contradict each other often."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from cluster.log.changes import Change, Kind
from cluster.model import DistributionFile, MirrorIndex
from cluster.names import IndexName
from cluster.state.options import kind_of, parse_options, to_options
from cluster.state.rows import canonical

USERS = ("root", "ann", "bob")
HOSTED = (IndexName("root/dev"), IndexName("ann/prod"), IndexName("ann/dev"))
MIRRORS = (IndexName("root/pypi"), IndexName("bob/mirror"))
PROJECTS = ("foo", "foo-bar", "baz")
VERSIONS = ("1.0", "1.1", "2.0rc1")

Write = list[Change]
"""Changes of one write: recorded together or not at all."""

json_leaves = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20)
)  # fmt: skip
json_values: st.SearchStrategy[Any] = st.recursive(
    json_leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)
digests = st.integers(0, 9).map(lambda n: f"{n:064x}")


@st.composite
def distribution_files(draw: st.DrawFn, project: str, hosted: bool) -> DistributionFile:
    """A file of a project; a mirrored one may be without sha256, or have a computed one."""
    version = draw(st.sampled_from(VERSIONS))
    suffix = draw(st.sampled_from(("-py3-none-any.whl", ".tar.gz")))
    filename = f"{project.replace('-', '_')}-{version}{suffix}"
    facts: dict[str, Any] = {"size": draw(st.none() | st.integers(0, 2**53 - 1))}
    if hosted:
        facts["hashes"] = {"sha256": draw(digests)}
    else:
        facts["url"] = f"https://files.example/{draw(st.integers(0, 2))}/{filename}"
        if draw(st.booleans()):
            facts["hashes"] = {"sha256": draw(digests)}
            facts["origin"] = draw(st.sampled_from(({}, {"sha256": "computed"})))
    facts["yanked"] = draw(st.sampled_from((None, "", "broken")))
    facts["requires_python"] = draw(st.sampled_from((None, ">=3.11")))
    return DistributionFile(filename, version, **facts)


@st.composite
def index_sets(draw: st.DrawFn) -> Change:
    """An index appears, or its options are others now; bases may form cycles or be missing."""
    name = draw(st.sampled_from(HOSTED + MIRRORS))
    options: dict[str, Any]
    if name in MIRRORS:
        options = {"type": "mirror", "mirror_url": "https://upstream.example/simple/"}
    else:
        others = [other for other in HOSTED + MIRRORS if other != name]
        bases = draw(st.lists(st.sampled_from(others), max_size=3, unique=True))
        whitelist = draw(st.lists(st.sampled_from((*PROJECTS, "*")), max_size=2))
        options = {"bases": list(bases), "mirror_whitelist": whitelist}
    index = parse_options(name, options).index
    payload = {"index": name, "type": kind_of(index), "options": to_options(index)}
    return Change(Kind.INDEX_SET, payload)


@st.composite
def project_deltas(draw: st.DrawFn) -> Write:
    """A mirrored project's delta, maybe in several parts, each with any of the facts."""
    project = draw(st.sampled_from(PROJECTS))
    common = {"index": draw(st.sampled_from(MIRRORS)), "project": project}
    parts = draw(st.integers(1, 3))
    write = []
    for part in range(1, parts + 1):
        payload: dict[str, Any] = dict(common)
        files = draw(st.lists(distribution_files(project, False), max_size=3))
        if files:
            payload["files"] = [file.to_json() for file in files]
        gone = draw(st.lists(distribution_files(project, False), max_size=2))
        if gone:
            payload["removed"] = [file.filename for file in gone]
        if draw(st.booleans()):
            payload["status"] = {"status": "archived", "reason": draw(st.text(max_size=5))}
        if draw(st.booleans()):
            payload["bare_added"] = draw(st.lists(st.sampled_from(VERSIONS), unique=True))
        if parts > 1:
            payload |= {"part": part, "parts": parts}
        write.append(Change(Kind.MIRROR_PROJECT, payload))
    return write


@st.composite
def file_changes(draw: st.DrawFn) -> Change:
    """A hosted file is added or removed."""
    project = draw(st.sampled_from(PROJECTS))
    common = {"index": draw(st.sampled_from(HOSTED)), "project": project}
    file = draw(distribution_files(project, True))
    if draw(st.integers(0, 3)):
        return Change(Kind.FILE_ADDED, {**common, "name": project.upper(), "file": file.to_json()})
    return Change(Kind.FILE_REMOVED, {**common, "filename": file.filename})


def user_changes() -> st.SearchStrategy[Change]:
    """A user appears, changes or goes."""
    names = st.sampled_from(USERS)
    options = st.dictionaries(st.sampled_from(("title", "email")), st.text(max_size=5))
    made = st.builds(
        lambda user, options: Change(Kind.USER_SET, {"user": user, "options": options}),
        names, options,
    )  # fmt: skip
    return made | names.map(lambda user: Change(Kind.USER_REMOVED, {"user": user}))


def listing_deltas() -> st.SearchStrategy[Change]:
    """Names come to and go from a mirror's list."""
    names = st.lists(st.sampled_from(("foo", "Foo", "FOO.Bar", "baz", "qux")), max_size=3)
    return st.builds(
        lambda index, added, removed: Change(
            Kind.MIRROR_LISTING, {"index": index, "added": added, "removed": removed}
        ),
        st.sampled_from(MIRRORS), names, names,
    )  # fmt: skip


def writes() -> st.SearchStrategy[Write]:
    """One write of any kind."""
    removals = st.sampled_from(HOSTED + MIRRORS).map(
        lambda index: Change(Kind.INDEX_REMOVED, {"index": index})
    )
    single = st.one_of(index_sets(), file_changes(), user_changes(), listing_deltas(), removals)
    return st.one_of(single.map(lambda change: [change]), project_deltas())


def histories(max_size: int = 25) -> st.SearchStrategy[list[Write]]:
    """Any number of writes; the entry that starts the epoch is not among them."""
    return st.lists(writes(), max_size=max_size)


def mirror(name: str = "root/pypi", **options: Any) -> MirrorIndex:
    """A mirror index of an upstream that is never asked."""
    return MirrorIndex(IndexName(name), mirror_url="https://upstream.example/simple/", **options)


__all__ = [
    "HOSTED", "MIRRORS", "PROJECTS", "Write", "canonical", "digests", "distribution_files",
    "file_changes", "histories", "index_sets", "json_values", "mirror", "project_deltas", "writes",
]  # fmt: skip
