"""What uploads change in the log, and what stands against them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from attrs import define, evolve
from sqlalchemy import Engine

from cluster.auth.acl import ANONYMOUS, Principal
from cluster.auth.tokens import TokenLimits
from cluster.errors import AuthenticationRequired, Conflict, Forbidden, InvalidRequest, NotFound
from cluster.log import changelog
from cluster.log.changes import Change, Kind
from cluster.model import DistributionFile
from cluster.names import IndexName, NormalizedName
from cluster.state import contents, queries
from cluster.state.apply import apply
from cluster.state.database import writing
from cluster.state.rows import Touched
from cluster.web.stages import stages_of
from primary.releasemetadata import LISTS, TEXTS, complete
from primary.staging import ended
from primary.uploadrules import Upload, docs_uploaded, file_uploaded, submitted
from tests.fakes import START, engine, entry, utc
from tests.test_apply import index_set

DEV, PROD = IndexName("root/dev"), IndexName("root/prod")
MIRROR = IndexName("root/pypi")
FOO = NormalizedName("foo")
WHEN = list(utc().timetuple()[:6])
ROOT = Principal("root")
DIGESTS = ("a" * 64, "b" * 64, "c" * 64)


def metadata(version: str = "1.0", **more: Any) -> dict[str, Any]:
    return {"name": "Foo", "version": version, **more}


def file(digest: str = DIGESTS[0], version: str = "1.0") -> DistributionFile:
    name = f"foo-{version}.tar.gz"
    return DistributionFile(name, version=version, hashes={"sha256": digest}, size=1)


@define
class Site:
    """A state with a volatile index, a non-volatile one and a mirror."""

    engine: Engine

    def record(self, changes: Sequence[Change]) -> list[Kind]:
        with writing(self.engine) as connection:
            frontier = changelog.frontier(connection)
            made = [entry(n, change) for n, change in enumerate(changes, start=frontier.size + 1)]
            for one in made:
                apply(connection, one, Touched())
            changelog.append(connection, frontier, made)
        return [change.kind for change in changes]

    def ask(self, question: Any, *arguments: Any) -> Any:
        with self.engine.begin() as connection:
            return question(connection, *arguments)

    def add(
        self, index: IndexName, one: DistributionFile, stage: str | None = None, **more: Any
    ) -> list[Kind]:
        upload = Upload(index, ROOT, utc(), stage)
        stated = metadata(one.version or "", **more)
        return self.record(self.ask(file_uploaded, upload, FOO, stated, one))

    def docs(self, index: IndexName, version: str, digest: str) -> list[Kind]:
        facts = {"sha256": digest, "size": 7}
        upload = Upload(index, ROOT, utc())
        return self.record(self.ask(docs_uploaded, upload, FOO, metadata(version), facts))

    def submit(self, index: IndexName, **more: Any) -> list[Kind]:
        upload = Upload(index, ROOT, utc())
        return self.record(self.ask(submitted, upload, FOO, metadata(**more)))

    def end(self, kind: Kind, index: IndexName, stage: str, who: Principal = ROOT) -> list[Kind]:
        return self.record(self.ask(ended, who, kind, index, stage))

    def files(self, index: IndexName) -> dict[str, contents.HeldFile]:
        held = self.ask(contents.held_files, (index, FOO))
        return {one.file.filename: one for one in held}

    def release(self, index: IndexName, version: str = "1.0") -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.ask(contents.release, (index, FOO), version)
        return found


@pytest.fixture
def site() -> Iterator[Site]:
    with engine() as of:
        made = Site(of)
        mirror = index_set(MIRROR, type="mirror", mirror_url="https://up.example/")
        made.record([START, index_set(DEV), index_set(PROD, volatile=False), mirror])
        yield made


def test_first_file_registers_its_release(site: Site) -> None:
    """A first upload records the release with every key, and the file with its link log."""
    assert site.add(DEV, file(), summary="S") == [Kind.RELEASE_SET, Kind.FILE_ADDED]
    release = site.release(DEV)
    assert release is not None
    assert set(release) == {*TEXTS, *LISTS}
    assert (release["name"], release["summary"], release["author"]) == ("Foo", "S", "")
    assert release["classifiers"] == []
    [held] = site.files(DEV).values()
    assert held.log == [{"what": "upload", "who": "root", "when": WHEN, "dst": DEV}]


def test_later_file_changes_only_what_it_says(site: Site) -> None:
    """The next file of a release updates the keys that were sent, and writes nothing if none."""
    site.add(DEV, file(), summary="S", author="A")
    other = evolve(file(DIGESTS[1]), filename="foo-1.0-py3-none-any.whl")
    assert site.add(DEV, other, summary="S") == [Kind.FILE_ADDED]
    third = evolve(file(DIGESTS[2]), filename="foo-1.0-py2-none-any.whl")
    assert site.add(DEV, third, summary="T") == [Kind.RELEASE_SET, Kind.FILE_ADDED]
    release = site.release(DEV)
    assert release is not None
    assert (release["summary"], release["author"]) == ("T", "A")


def test_submit_sets_all(site: Site) -> None:
    """`submit` registers a release without files, replaces all keys, and may change nothing."""
    assert site.submit(DEV, summary="S", author="A") == [Kind.RELEASE_SET]
    assert site.submit(DEV, summary="T") == [Kind.RELEASE_SET]
    assert site.release(DEV) == complete(metadata(summary="T"))
    assert site.submit(DEV, summary="T") == []


@pytest.mark.parametrize("index", [DEV, PROD])
def test_identical_again_is_nothing(site: Site, index: IndexName) -> None:
    """The same bytes under the same name change nothing on both kinds of index (standards U3)."""
    site.add(index, file())
    assert site.add(index, file(), summary="other") == []


def test_volatile_index_overwrites(site: Site) -> None:
    """Other bytes replace a file of a volatile index; its log counts how often that happened."""
    for digest in DIGESTS:
        site.add(DEV, file(digest))
    [held] = site.files(DEV).values()
    assert held.file.sha256 == DIGESTS[2]
    overwrite, upload = held.log
    assert overwrite == {"what": "overwrite", "who": None, "when": WHEN, "count": 2}
    assert upload == {"what": "upload", "who": "root", "when": WHEN, "dst": DEV}


def test_non_volatile_index_keeps(site: Site) -> None:
    """Other bytes under a name of a non-volatile index are a conflict, in devpi's words."""
    site.add(PROD, file())
    with pytest.raises(Conflict, match=r"foo-1.0.tar.gz already exists in non-volatile index"):
        site.add(PROD, file(DIGESTS[1]))
    assert site.files(PROD)["foo-1.0.tar.gz"].file.sha256 == DIGESTS[0]


def test_removed_names_stay_taken(site: Site) -> None:
    """A removed file's name is never used again on a non-volatile index, and is free on others."""
    gone = {"project": FOO, "filename": "foo-1.0.tar.gz"}
    for index in (DEV, PROD):
        site.add(index, file())
        site.record([Change(Kind.FILE_REMOVED, {"index": index, **gone})])
    for digest in DIGESTS[:2]:
        with pytest.raises(Conflict, match="was used before"):
            site.add(PROD, file(digest))
    assert site.add(DEV, file(DIGESTS[1])) == [Kind.RELEASE_SET, Kind.FILE_ADDED]


@pytest.mark.parametrize("status", ["archived", "quarantined"])
def test_closed_projects_take_nothing(site: Site, status: str) -> None:
    """PEP 792: archived and quarantined projects refuse files, releases and docs; others not."""
    site.add(DEV, file())

    def set_status(word: str) -> None:
        payload = {"index": DEV, "project": FOO, "status": {"status": word}}
        site.record([Change(Kind.PROJECT_STATUS, payload)])

    set_status(status)
    for attempt in (
        lambda: site.add(DEV, file(DIGESTS[1])),
        lambda: site.submit(DEV, summary="x"),
        lambda: site.docs(DEV, "1.0", DIGESTS[2]),
    ):
        with pytest.raises(Forbidden, match=f"foo on root/dev is {status}"):
            attempt()
    set_status("deprecated")
    assert site.submit(DEV, summary="x") == [Kind.RELEASE_SET]


def test_docs(site: Site) -> None:
    """Docs without a version are those of the latest release; unknown versions get registered."""
    with pytest.raises(InvalidRequest, match="no releases to derive one"):
        site.docs(DEV, "", DIGESTS[0])
    assert site.docs(DEV, "1.0", DIGESTS[0]) == [Kind.RELEASE_SET, Kind.DOCS_SET]
    site.add(DEV, file(DIGESTS[1], "10.0"))
    assert site.docs(DEV, "", DIGESTS[0]) == [Kind.DOCS_SET]
    held = site.ask(contents.docs_of, (DEV, FOO))
    assert sorted(held) == ["1.0", "10.0"]
    assert held["10.0"].filename == "foo-10.0.doc.zip"
    assert held["10.0"].log == [{"what": "upload", "who": "root", "when": WHEN, "dst": DEV}]


def test_docs_again(site: Site) -> None:
    """The same docs again are nothing; others replace them, or are a conflict."""
    for index in (DEV, PROD):
        site.docs(index, "1.0", DIGESTS[0])
        assert site.docs(index, "1.0", DIGESTS[0]) == []
    assert site.docs(DEV, "1.0", DIGESTS[1]) == [Kind.DOCS_SET]
    held = site.ask(contents.docs_of, (DEV, FOO))["1.0"]
    assert [(one["what"], one.get("count")) for one in held.log] == [
        ("overwrite", 1), ("upload", None),
    ]  # fmt: skip
    with pytest.raises(Conflict, match="already exists in non-volatile"):
        site.docs(PROD, "1.0", DIGESTS[1])


def test_who_may(site: Site) -> None:
    """Rights are checked in the transaction: of the index, and of tokens for single projects."""
    limits = TokenLimits(actions=frozenset({"upload"}), indexes=(), projects=("bar",))
    for who, refusal in (
        (ANONYMOUS, AuthenticationRequired),
        (Principal("ann"), Forbidden),
        (Principal("root", limits), Forbidden),
    ):
        with pytest.raises(refusal):
            site.ask(submitted, Upload(DEV, who, utc()), FOO, metadata())
    allowed = Upload(DEV, Principal("root", evolve(limits, projects=("foo",))), utc())
    assert site.ask(submitted, allowed, FOO, metadata())
    for index in (MIRROR, IndexName("root/absent")):
        with pytest.raises(NotFound):
            site.ask(submitted, Upload(index, ROOT, utc()), FOO, metadata())


def test_stage_is_published_at_once(site: Site) -> None:
    """Staged files are nowhere until their stage is published by one entry, then all are there."""
    site.add(PROD, file(), "s1", summary="S" * 100_000)
    wheel = evolve(file(DIGESTS[1]), filename="foo-1.0-py3-none-any.whl")
    assert site.add(PROD, wheel, "s1", author="A") == [
        *[Kind.RELEASE_SET] * 2, Kind.FILE_ADDED,
    ]  # fmt: skip
    assert site.add(PROD, wheel, "s1") == []
    assert site.files(PROD) == {}
    assert not site.ask(queries.has_project, PROD, FOO)
    assert site.ask(stages_of, PROD, ROOT) == [
        {"id": "s1", "files": ["foo-1.0.tar.gz", wheel.filename], "releases": ["foo==1.0"]}
    ]
    assert site.end(Kind.STAGE_PUBLISHED, PROD, "s1") == [Kind.STAGE_PUBLISHED]
    assert sorted(site.files(PROD)) == [wheel.filename, "foo-1.0.tar.gz"]
    assert site.release(PROD) == complete(metadata(summary="S" * 100_000, author="A"))
    assert site.ask(stages_of, PROD, ROOT) == []
    with pytest.raises(NotFound):
        site.end(Kind.STAGE_PUBLISHED, PROD, "s1")


def test_stage_with_conflicts(site: Site) -> None:
    """What has become impossible stops the whole stage, and all of it is named."""
    site.add(PROD, file(), "s1")
    site.add(PROD, file(version="2.0"), "s1")
    site.add(PROD, file(version="3.0"), "s1")
    site.add(PROD, file(DIGESTS[1]))
    site.add(PROD, file(DIGESTS[1], "2.0"))
    with pytest.raises(Conflict, match=r"foo-1.0.tar.gz already.*; foo-2.0.tar.gz already"):
        site.end(Kind.STAGE_PUBLISHED, PROD, "s1")
    assert "foo-3.0.tar.gz" not in site.files(PROD)
    assert site.end(Kind.STAGE_DROPPED, PROD, "s1") == [Kind.STAGE_DROPPED]
    assert site.ask(stages_of, PROD, ROOT) == []


def test_stages_need_the_upload_right(site: Site) -> None:
    """Who may not upload may neither see nor end stages, nor a token for other projects."""
    site.add(DEV, file(), "s1")
    limits = TokenLimits(actions=frozenset({"upload"}), indexes=(), projects=("bar",))
    for who in (Principal("ann"), Principal("root", limits)):
        with pytest.raises(Forbidden):
            site.end(Kind.STAGE_DROPPED, DEV, "s1", who)
    with pytest.raises(Forbidden):
        site.ask(stages_of, DEV, Principal("ann"))
    with pytest.raises(NotFound):
        site.ask(stages_of, MIRROR, ROOT)
