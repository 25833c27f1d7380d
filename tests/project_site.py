"""Projects, files and test results of a primary over HTTP, in memory; its mirrors too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from attrs import define, field
from klein import Klein
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cluster.files.fetch import Fetcher
from cluster.files.store import FileStore
from cluster.log.changes import Change, Kind
from cluster.model import DistributionFile, MirrorIndex, ProjectStatus
from cluster.names import NormalizedName, normalize, version_from_filename
from cluster.simple.cache import PageCache
from cluster.state import queries
from cluster.state.freshness import Freshness, Outcome
from cluster.threads import Inline
from cluster.upstream.ondemand import MirrorAnswer, OnDemand, failure
from cluster.upstream.parse import ParsedProject
from cluster.web.devpi import projects
from cluster.web.devpi.projects import ProjectPages
from cluster.web.files import Files
from cluster.web.hotfiles import HotFiles
from cluster.web.request import NodeRequest, StreamHandler
from cluster.web.routes import add_common_routes
from cluster.web.simple import SimplePages
from cluster.web.unlogged import UnloggedFiles
from primary.devpi import indexes as index_writes
from primary.devpi import projects as project_writes
from primary.devpi import toxresults
from primary.devpi import users as user_writes
from primary.devpi.projects import ProjectResource
from primary.devpi.toxresults import ToxResults
from primary.mirroring.delta import project_delta
from primary.writer import Writer
from tests.devpi_site import JSON, Answer, DevpiSite, Web, devpi_site
from tests.fakes import NOW, as_clock, utc

UPSTREAM = "http://up.example"


@define
class Upstream:
    """Asks an upstream that has these files by project, or is in trouble."""

    writer: Writer
    files: dict[str, list[str]] = field(factory=dict)
    error: str | None = None
    asked: list[str] = field(factory=list)

    async def refresh(
        self, index: MirrorIndex, project: str, known: Freshness | None
    ) -> MirrorAnswer:
        self.asked.append(project)
        if self.error is not None:
            return MirrorAnswer(failure(known, NOW, self.error))
        if project not in self.files:
            return MirrorAnswer(Freshness(Outcome.ABSENT, NOW))
        name, page = normalize(project), self._page(project)

        def decide(connection: Connection) -> list[Change]:
            here = queries.project_files(connection, index.name, name)
            facts = queries.project_facts(connection, index.name, name)
            return list(project_delta(index.name, name, here, facts, page))

        await self.writer.write("+mirror", decide)
        return MirrorAnswer(Freshness(Outcome.FOUND, NOW, NOW))

    def _page(self, project: str) -> ParsedProject:
        files = [described(name, project, url=True) for name in self.files[project]]
        return ParsedProject(tuple(files), (), ProjectStatus(), None, ())


def described(filename: str, project: str, *, url: bool = False) -> DistributionFile:
    """A file whose bytes are its name."""
    return DistributionFile(
        filename,
        version=version_from_filename(filename, normalize(project)),
        hashes={"sha256": sha256(filename.encode()).hexdigest()},
        size=len(filename),
        url=f"{UPSTREAM}/{filename}" if url else None,
        upload_time="2023-11-14T22:13:20.000000Z",
    )


def link(filename: str) -> str:
    """The path of such a file below its index."""
    digest = sha256(filename.encode()).hexdigest()
    return f"+f/{digest[:3]}/{digest[3:16]}/{filename}"


@define
class ProjectWeb(Web):
    """The application under test."""

    app = Klein()

    simple: SimplePages
    files: Files
    project_pages: ProjectPages
    projects: ProjectResource
    toxresults: ToxResults

    def stream_handler(  # type: ignore[override]
        self, request: NodeRequest
    ) -> StreamHandler | None:
        return self.toxresults.stream_handler(request)


add_common_routes(ProjectWeb.app)
for module in (projects, user_writes, index_writes, project_writes, toxresults):
    module.add_routes(ProjectWeb.app)


@define
class ProjectSite(DevpiSite):
    """A site with the index bob/dev; `upstream` is behind all its mirrors."""

    upstream: Upstream
    store: FileStore
    bob: tuple[str, str] = ("", "")

    def add(self, index: str, project: str, *filenames: str, **metadata: Any) -> None:
        """Add files to a project, each with its release."""
        for filename in filenames:
            file = described(filename, project)
            where = {"index": index, "project": normalize(project), "name": project}
            pairs = {"name": project, "version": file.version, **metadata}.items()
            release = {**where, "version": file.version, "metadata": [list(p) for p in pairs]}
            when = [2023, 11, 14, 22, 13, 20]
            entry = {"what": "upload", "who": "bob", "when": when, "dst": index}
            self.write(
                Change(Kind.RELEASE_SET, release),
                Change(Kind.FILE_ADDED, {**where, "file": file.to_json(), "log": [entry]}),
            )  # fmt: skip

    def add_docs(self, index: str, project: str, version: str) -> str:
        """Give a release documentation; its file name."""
        filename = f"{project}-{version}.doc.zip"
        docs = {"filename": filename, "sha256": sha256(filename.encode()).hexdigest(), "size": 1}
        where = {"index": index, "project": NormalizedName(project), "version": version}
        self.write(Change(Kind.DOCS_SET, {**where, "docs": docs, "log": []}))
        return filename

    def chunked(self, path: str, pieces: list[bytes]) -> Answer:
        """A POST of a body whose length is not announced."""
        head = [f"POST {path} HTTP/1.1", "Host: mirror.example", f"Accept: {JSON}",
                "Transfer-Encoding: chunked", "", ""]  # fmt: skip
        body = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b"")]
        return self.send("\r\n".join(head).encode() + b"".join(body))

    def versions(self, index: str, project: str) -> dict[str, Any]:
        """A project of an index and its bases, by version."""
        return cast(dict[str, Any], self.call("GET", f"/{index}/{project}").result)


@contextmanager
def project_site(folder: Path) -> Iterator[ProjectSite]:
    """A primary with the users root and bob."""
    with devpi_site(folder) as site:
        clock = as_clock(Clock())
        store = FileStore(folder / "files", Inline())
        Deferred.fromCoroutine(store.open())
        upstream, unlogged, identity = Upstream(site.writer), UnloggedFiles(), site.web.identity
        mirror = OnDemand(upstream, site.database, clock, lambda: site.now[0])
        cache, hot = PageCache(1 << 20), HotFiles(1 << 20)
        position = site.web.position
        for one in (cache, hot):
            position.listen(one.changed)
        simple = SimplePages(
            site.database, position, clock, lambda: site.now[0], cache, cast(Any, None), mirror,
            unlogged, identity,
        )  # fmt: skip
        fetcher = Fetcher(store, clock, lambda *what: None)
        files = Files(
            site.database, store, fetcher, lambda *asked: [], unlogged, None, position, hot,
            identity,
        )  # fmt: skip
        old = site.web
        web = ProjectWeb(
            old.clock, position, identity, old.discovery, old.user_pages, old.index_pages,
            old.users, old.indexes, simple, files, ProjectPages(site.database, simple, None),
            ProjectResource(identity, site.writer, mirror, simple),
            ToxResults(identity, site.database, site.writer, store, Inline(), utc),
        )  # fmt: skip
        made = ProjectSite(
            web, site.database, site.writer, site.blobs, site.mirror, site.now, upstream, store
        )
        made.bob = made.user("bob")
        assert made.call("PUT", "/bob/dev", {}, made.bob).status == 200
        yield made
