"""Pushing to an index of the same server: rights, conflicts, logs, and releases of mirrors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred

from cluster.auth.acl import ANONYMOUS, Principal
from cluster.auth.tokens import TokenLimits
from cluster.errors import (
    AuthenticationRequired,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    UpstreamError,
)
from cluster.files.sink import Digests
from cluster.files.store import FileStore
from cluster.log.changes import Change, Kind
from cluster.model import DistributionFile
from cluster.names import IndexName, NormalizedName
from cluster.state import contents
from cluster.state.database import Database
from cluster.state.freshness import Freshness, Outcome
from cluster.state.links import LocatedFile
from cluster.threads import Inline
from cluster.upstream.ondemand import MirrorAnswer
from primary.devpi.push import PushResource, order_of
from primary.devpi.pushexternal import Destination
from primary.devpi.pushmirrored import MirroredReleases
from primary.releasemetadata import complete
from primary.writer import Writer
from tests.builders import Built, sdist, wheel
from tests.fakes import NOW, database, utc, writer
from tests.indexed import index_set

DEV, PROD, UP = IndexName("ann/dev"), IndexName("ann/prod"), IndexName("ann/up")
DEMO = NormalizedName("demo")
WHEEL, SDIST = wheel("demo", "1.0", requires_python=">=3.8"), sdist("demo", "1.0")
UPLOADED = {"what": "upload", "who": "ann", "when": [2023, 1, 1, 0, 0, 0], "dst": DEV}
WHEN = [2023, 11, 14, 22, 13, 20]
RESULT = f"{SDIST.filename}.toxresult-20230101000000-0"


@define
class FakeIdentity:
    """Everybody is `who`."""

    who: Principal = ANONYMOUS

    async def user(self, request: object) -> Principal:
        return self.who


@define
class FakeRequest:
    """The parts of a request that a push reads."""

    content: BytesIO
    lost: bool = False


@define
class Upstream:
    """What a mirror's upstream has: files by name, which count how often they are fetched."""

    store: FileStore
    error: str | None = None
    built: dict[str, bytes] = field(factory=dict)
    fetched: list[str] = field(factory=list)

    async def ensure(self, index: Any, project: str) -> MirrorAnswer:
        outcome = Outcome.FOUND if self.error is None else Outcome.ERROR
        return MirrorAnswer(Freshness(outcome, NOW, error=self.error))

    def fetch(self, located: LocatedFile, path: str) -> Any:
        upstream, name = self, located.file.filename
        self.fetched.append(name)

        class Transfer:
            async def done(self) -> Digests:
                if name not in upstream.built:
                    raise UpstreamError(f"{name} could not be fetched")
                return await upstream.store.add_bytes(upstream.built[name])

        return Transfer()


@define
class Site:
    """A push resource over a real log, state and file store."""

    state: Database
    log: Writer
    store: FileStore
    upstream: Upstream
    identity: FakeIdentity
    resource: PushResource

    async def push(self, who: str | None = "ann", source: str = DEV, **body: Any) -> list[Any]:
        """The action log of a push of demo 1.0 to ann/prod, unless `body` says otherwise."""
        self.identity.who = Principal(who)
        return await self.push_as(self.identity.who, source, **body)

    async def push_as(self, who: Principal, source: str = DEV, **body: Any) -> list[Any]:
        """As `push`."""
        self.identity.who = who
        order = {"name": "demo", "version": "1.0", "targetindex": PROD, **body}
        request = cast(Any, FakeRequest(BytesIO(json.dumps(order).encode())))
        reply = await self.resource.push(request, IndexName(source))
        document = json.loads(reply.body)
        assert (reply.status, document["type"]) == (200, "actionlog")
        return cast(list[Any], document["result"])

    async def record(self, *changes: Change) -> None:
        """Write changes as they are."""
        await self.log.write("ann", lambda c: list(changes))

    async def files(self, index: IndexName = PROD) -> dict[str, contents.HeldFile]:
        """What an index has of demo, by file name."""
        held = await self.state.read(lambda c: contents.held_files(c, (index, DEMO)))
        return {one.file.filename: one for one in held}

    @property
    def size(self) -> int:
        """The length of the log."""
        return self.log.frontier.size


def file_of(built: Built, **more: Any) -> DistributionFile:
    return DistributionFile(
        built.filename, version=built.version, hashes={"sha256": built.sha256},
        size=len(built.data), **more,
    )  # fmt: skip


def file_added(built: Built, index: str = DEV, **more: Any) -> Change:
    facts = {"index": index, "project": DEMO, "name": "demo", "log": [{**UPLOADED, "dst": index}]}
    return Change(Kind.FILE_ADDED, {**facts, "file": file_of(built, **more).to_json()})


def docs_set(sha256: str = "d" * 64, index: str = DEV) -> Change:
    docs = {"filename": "demo-1.0.doc.zip", "sha256": sha256, "size": 9}
    facts = {"index": index, "project": DEMO, "name": "demo", "version": "1.0"}
    return Change(Kind.DOCS_SET, {**facts, "docs": docs, "log": [UPLOADED]})


def tox_added(sha256: str = "e" * 64, index: str = DEV, name: str = RESULT) -> Change:
    result = {"filename": name, "sha256": sha256, "size": 2}
    facts = {"index": index, "project": DEMO, "filename": SDIST.filename}
    return Change(Kind.TOXRESULT_ADDED, {**facts, "result": result, "log": [UPLOADED]})


def release_set(**metadata: Any) -> Change:
    pairs = complete({"name": "demo", "version": "1.0", **metadata}).items()
    facts = {"index": DEV, "project": DEMO, "name": "demo", "version": "1.0"}
    return Change(Kind.RELEASE_SET, {**facts, "metadata": [list(pair) for pair in pairs]})


def mirrored(*files: DistributionFile, **more: Any) -> Change:
    facts = {"index": UP, "project": DEMO, **more}
    return Change(Kind.MIRROR_PROJECT, {**facts, "files": [file.to_json() for file in files]})


BASICS = (
    index_set(DEV), index_set(PROD, volatile=False), index_set(UP, "mirror"),
    index_set("ann/top", bases=[DEV]), index_set("bob/theirs"),
    index_set("bob/hidden", acl_pkg_read=["bob"]),
    release_set(summary="A demo"), file_added(WHEEL, yanked="bad"), file_added(SDIST), docs_set(),
    tox_added(),
)  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    store = FileStore(tmp_path, Inline())
    pytest_twisted.blockon(Deferred.fromCoroutine(store.open()))
    with database() as state:
        log, upstream, identity = writer(state), Upstream(store), FakeIdentity()
        ready = MirroredReleases(
            state, cast(Any, upstream), upstream.fetch, store, Inline()
        )  # fmt: skip
        resource = PushResource(
            cast(Any, identity), state, log, ready, cast(Any, None), utc
        )  # fmt: skip
        made = Site(state, log, store, upstream, identity, resource)
        pytest_twisted.blockon(Deferred.fromCoroutine(made.record(*BASICS)))
        yield made


@pytest_twisted.ensureDeferred
async def test_everything_goes(site: Site) -> None:
    """Files, metadata, docs and test results arrive, with one line of account for each."""
    actions = await site.push()
    files = {
        built.filename: f"+f/{built.sha256[:3]}/{built.sha256[3:16]}" for built in (WHEEL, SDIST)
    }
    assert actions == [
        [200, "register", "demo", "1.0", "->", PROD],
        [200, "store_releasefile", f"{PROD}/{files[WHEEL.filename]}/{WHEEL.filename}"],
        [200, "store_releasefile", f"{PROD}/{files[SDIST.filename]}/{SDIST.filename}"],
        [200, "store_toxresult", f"{PROD}/{files[SDIST.filename]}/{RESULT}"],
        [200, "store_doczip", f"{PROD}/+f/ddd/{'d' * 13}/demo-1.0.doc.zip"],
    ]
    there, here = await site.files(), await site.files(DEV)
    assert {name: held.file for name, held in there.items()} == {
        name: held.file for name, held in here.items()
    }
    where = (PROD, DEMO)
    release = await site.state.read(lambda c: contents.release(c, where, "1.0"))
    assert release is not None
    assert release["summary"] == "A demo"
    (result,) = await site.state.read(lambda c: contents.toxresults_of(c, where))
    docs = (await site.state.read(lambda c: contents.docs_of(c, where)))["1.0"]
    pushed = {"what": "push", "who": "ann", "when": WHEN, "src": DEV, "dst": PROD}
    for log in (there[WHEEL.filename].log, result.log, docs.log):
        assert log == [UPLOADED, pushed]


@pytest.mark.parametrize(
    ("only", "kinds"),
    [
        ("no_docs", {"register", "store_releasefile", "store_toxresult"}),
        ("only_docs", {"register", "store_doczip"}),
    ],
)
@pytest_twisted.ensureDeferred
async def test_parts(site: Site, only: str, kinds: set[str]) -> None:
    """Files without docs, or docs alone."""
    order: dict[str, Any] = {only: True}
    assert {action[1] for action in await site.push(**order)} == kinds


@pytest_twisted.ensureDeferred
async def test_docs_alone_leave_metadata(site: Site) -> None:
    """Pushing documentation does not take the target's metadata away."""
    await site.push()
    await site.record(release_set(summary="Changed"), docs_set("f" * 64))
    await site.record(index_set(PROD))
    await site.push(only_docs=True)
    release = await site.state.read(lambda c: contents.release(c, (PROD, DEMO), "1.0"))
    assert release is not None
    assert release["summary"] == "A demo"


@pytest_twisted.ensureDeferred
async def test_again(site: Site) -> None:
    """What is there already, with the same content, is no change, also on a non-volatile index."""
    first = await site.push()
    size = site.size
    assert await site.push() == first
    assert site.size == size


@pytest_twisted.ensureDeferred
async def test_conflict_is_whole(site: Site) -> None:
    """One file with other content on a non-volatile index, and nothing of the push is recorded."""
    other = evolve(SDIST, sha256="a" * 64)
    await site.record(file_added(other, PROD))
    size = site.size
    with pytest.raises(Conflict, match="already exists in non-volatile"):
        await site.push()
    assert site.size == size
    assert set(await site.files()) == {SDIST.filename}


@pytest_twisted.ensureDeferred
async def test_docs_conflict(site: Site) -> None:
    """Other documentation on a non-volatile index stays."""
    await site.record(docs_set("f" * 64, PROD))
    with pytest.raises(Conflict, match=r"demo-1.0.doc.zip already exists"):
        await site.push()


@pytest_twisted.ensureDeferred
async def test_removed_name(site: Site) -> None:
    """A name that a non-volatile index once had cannot come back through a push."""
    await site.push(no_docs=True)
    facts = {"index": PROD, "project": DEMO, "filename": WHEEL.filename}
    await site.record(Change(Kind.FILE_REMOVED, facts))
    with pytest.raises(Conflict, match="was used before"):
        await site.push(no_docs=True)


@pytest_twisted.ensureDeferred
async def test_overwriting(site: Site) -> None:
    """On a volatile index a file is replaced, its log says so, and its test results go."""
    other = evolve(SDIST, sha256="a" * 64)
    await site.record(index_set(PROD), file_added(other, PROD), tox_added("c" * 64, PROD))
    await site.push()
    held = (await site.files())[SDIST.filename]
    assert held.file.sha256 == SDIST.sha256
    assert [(e["what"], e["who"]) for e in held.log] == [
        ("overwrite", None), ("upload", "ann"), ("push", "ann"),
    ]  # fmt: skip
    assert held.log[0]["count"] == 1
    results = await site.state.read(lambda c: contents.toxresults_of(c, (PROD, DEMO)))
    assert [result.sha256 for result in results] == ["e" * 64]


@pytest_twisted.ensureDeferred
async def test_results_do_not_collide(site: Site) -> None:
    """Test results that were made on both indexes in one second are both kept."""
    await site.push()
    await site.record(tox_added("c" * 64))  # in the place of the one that was pushed
    actions = await site.push()
    assert actions[3][2].endswith(f"/{RESULT[:-1]}1")
    results = await site.state.read(lambda c: contents.toxresults_of(c, (PROD, DEMO)))
    assert {r.result: r.sha256[0] for r in results} == {RESULT: "e", RESULT[:-1] + "1": "c"}


@pytest.mark.parametrize(
    ("error", "push"),
    [
        (InvalidRequest, {"version": "9"}),
        (InvalidRequest, {"name": "other"}),
        (InvalidRequest, {"name": "-"}),
        (InvalidRequest, {"source": "ann/top"}),
        (NotFound, {"source": "ann/none"}),
        (NotFound, {"source": "bob/hidden"}),
        (NotFound, {"targetindex": "ann/none"}),
        (NotFound, {"targetindex": "bob/hidden"}),
        (NotFound, {"targetindex": UP}),
        (AuthenticationRequired, {"targetindex": "bob/theirs"}),
        (AuthenticationRequired, {"who": None}),
        (AuthenticationRequired, {"who": None, "source": "bob/hidden"}),
    ],
)
@pytest_twisted.ensureDeferred
async def test_refused(site: Site, error: type[Exception], push: dict[str, Any]) -> None:
    """No such version there itself (bases do not count), no such index, or no right."""
    size = site.size
    with pytest.raises(error):
        await site.push(**push)
    assert site.size == size


@pytest_twisted.ensureDeferred
async def test_nothing_to_push(site: Site) -> None:
    """A release that is registered but has no files, or no docs, is 404."""
    facts = {"index": DEV, "project": DEMO, "name": "demo", "version": "2.0"}
    await site.record(Change(Kind.RELEASE_SET, {**facts, "metadata": [["name", "demo"]]}))
    with pytest.raises(NotFound, match="no files"):
        await site.push(version="2.0")
    with pytest.raises(NotFound, match="no documentation"):
        await site.push(version="2.0", only_docs=True)


@pytest.mark.parametrize(("index", "status"), [(PROD, "archived"), (DEV, "quarantined")])
@pytest_twisted.ensureDeferred
async def test_closed_projects(site: Site, index: str, status: str) -> None:
    """An archived project takes nothing, and a quarantined one gives nothing (PEP 792)."""
    await site.record(file_added(wheel("demo", "0.9"), PROD))
    facts = {"index": index, "project": DEMO, "status": {"status": status}}
    await site.record(Change(Kind.PROJECT_STATUS, facts))
    with pytest.raises(Forbidden, match=status):
        await site.push()


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [
        (TokenLimits(frozenset({"upload"}), (PROD,), ("demo",)), True),
        (TokenLimits(frozenset({"upload"}), (PROD,), ("other",)), False),
        (TokenLimits(frozenset({"upload"}), (DEV,), ()), False),
        (TokenLimits(frozenset({"read"}), (), ()), False),
    ],
)
@pytest_twisted.ensureDeferred
async def test_tokens(site: Site, limits: TokenLimits, allowed: bool) -> None:
    """A token pushes to where it may upload this project."""
    who = Principal("ann", limits)
    if allowed:
        assert await site.push_as(who)
        return
    with pytest.raises(AuthenticationRequired):
        await site.push_as(who)


@pytest_twisted.ensureDeferred
async def test_from_a_mirror(site: Site) -> None:
    """A mirror's files are fetched, described by what is in them, and keep upstream's facts."""
    known = file_of(
        WHEEL, url="https://u.example/w.whl", upload_time="2020-01-01T00:00:00Z", yanked="why"
    )
    unknown = evolve(file_of(SDIST, url="https://u.example/s.tar.gz"), hashes={}, size=None)
    await site.record(mirrored(known, unknown))
    site.upstream.built = {WHEEL.filename: WHEEL.data, SDIST.filename: SDIST.data}
    actions = await site.push(source=UP)
    assert [action[1] for action in actions] == ["register"] + ["store_releasefile"] * 2
    files = await site.files()
    pushed = files[WHEEL.filename].file
    assert (pushed.upload_time, pushed.yanked, pushed.url) == (known.upload_time, "why", None)
    assert (pushed.requires_python, pushed.core_metadata) == (">=3.8", WHEEL.metadata_sha256)
    assert await site.store.size_of(WHEEL.metadata_sha256) == len(WHEEL.metadata)
    assert files[SDIST.filename].file.sha256 == SDIST.sha256
    assert files[SDIST.filename].file.size == len(SDIST.data)
    release = await site.state.read(lambda c: contents.release(c, (PROD, DEMO), "1.0"))
    assert release is not None
    assert release["summary"] == "A test package called demo"
    (log,) = files[WHEEL.filename].log
    assert (log["what"], log["src"]) == ("push", UP)
    await site.push(source=UP)
    assert site.upstream.fetched.count(WHEEL.filename) == 1


@pytest_twisted.ensureDeferred
async def test_odd_files_of_a_mirror(site: Site) -> None:
    """Files that are no archives, or of another project, go too, under the mirror's own name."""
    digest = (await site.store.add_bytes(b"no zip")).sha256
    broken = evolve(WHEEL, filename="demo-1.0-py2-none-any.whl", sha256=digest, data=b"no zip")
    stranger = evolve(wheel("stranger", "1.0"), filename="demo-1.0-py3-none-any.whl")
    files = [file_of(built, url="https://u.example/x") for built in (broken, stranger)]
    await site.record(mirrored(*files))
    site.upstream.built = {stranger.filename: stranger.data}
    await site.push(source=UP)
    release = await site.state.read(lambda c: contents.release(c, (PROD, DEMO), "1.0"))
    assert release == complete({"name": "demo", "version": "1.0"})
    assert (await site.files())[broken.filename].file.core_metadata is None


@pytest_twisted.ensureDeferred
async def test_mirror_without_the_file(site: Site) -> None:
    """A file that does not come ends the push before anything is recorded."""
    await site.record(mirrored(file_of(WHEEL, url="https://u.example/w.whl")))
    size = site.size
    with pytest.raises(UpstreamError, match="could not be fetched"):
        await site.push(source=UP)
    assert site.size == size


@pytest_twisted.ensureDeferred
async def test_mirror_away(site: Site) -> None:
    """An upstream that is away is a 502; one that has no such version a 400."""
    with pytest.raises(InvalidRequest):
        await site.push(source=UP)
    site.upstream.error = "no answer"
    with pytest.raises(UpstreamError, match="no answer"):
        await site.push(source=UP)


@pytest_twisted.ensureDeferred
async def test_leaving_client(site: Site) -> None:
    """A client that leaves does not cut off the upload elsewhere that is under way."""
    going: Deferred[None] = Deferred()
    ended: list[bool] = []

    class Uploads:
        async def send(self, release: object, to: object, **more: Any) -> list[Any]:
            await going
            ended.append(more["is_gone"]())
            return []

    site.resource._external = cast(Any, Uploads())
    site.identity.who = Principal("ann")
    order = {"name": "demo", "version": "1.0", **ELSEWHERE}
    request = FakeRequest(BytesIO(json.dumps(order).encode()))
    work = Deferred.fromCoroutine(site.resource.push(cast(Any, request), DEV))
    request.lost = True
    work.cancel()
    work.addErrback(lambda failure: failure.trap(CancelledError))
    await work
    going.callback(None)
    assert ended == [True]


@pytest_twisted.ensureDeferred
async def test_nothing_is_fetched_in_vain(site: Site) -> None:
    """Who may not upload to the target does not make the mirror fetch."""
    await site.record(mirrored(file_of(WHEEL, url="https://u.example/w.whl")))
    with pytest.raises(AuthenticationRequired):
        await site.push("bob", source=UP)
    assert site.upstream.fetched == []


GOOD = {"name": "demo", "version": "1.0", "targetindex": PROD}
ELSEWHERE = {"posturl": "https://there.example/", "username": "ann", "password": "x"}


@pytest.mark.parametrize(
    "change",
    [
        {"no_docs": True, "only_docs": True},
        {"no_docs": "yes"},
        {"targetindex": "prod"},
        {"targetindex": "a/b/c"},
        {"targetindex": None},
        {"name": None},
        {"version": 1},
        {"extra": 1},
        {"username": "ann"},
        {"posturl": "https://there.example/"},
        {"register_project": True},
    ],
)
def test_bad_orders(change: dict[str, Any]) -> None:
    """Bodies that say something else, too much or too little are refused."""
    with pytest.raises(InvalidRequest):
        order_of({**GOOD, **change})


@pytest.mark.parametrize(
    "url",
    [
        "ftp://there.example/", "file:///etc/passwd", "there.example", "https://", "http:///x",
        "https://ann:secret@there.example/", "https://there.example/ x", "https://there.example:x/",
        "https://there.example/\r\nX: y", "https://thère.example/",
    ],
)  # fmt: skip
def test_bad_places(url: str) -> None:
    """Only http(s) URLs without credentials are pushed to; the answer does not repeat the URL."""
    with pytest.raises(InvalidRequest) as raised:
        order_of({"name": "demo", "version": "1.0", **ELSEWHERE, "posturl": url})
    assert "secret" not in str(raised.value)


def test_password_is_not_shown() -> None:
    """A destination in a log or a traceback does not tell its password."""
    assert "x!y" not in repr(Destination("https://there.example/", "ann", "x!y"))
