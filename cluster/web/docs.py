"""Documentation of releases, served straight from the uploaded zip (devpi-api §8).

What people upload runs in browsers under the address of this node, so each answer puts it into
a sandbox: an origin of its own, from which scripts reach nothing of ours with anybody's rights
(security T9; docs/access.md says what that means for authors).
"""

from __future__ import annotations

import mimetypes
from typing import Any, Final
from urllib.parse import quote, urlsplit

from attrs import define, evolve, field, frozen
from klein import Klein
from packaging.version import InvalidVersion, Version
from sqlalchemy import Connection
from twisted.internet.defer import DeferredLock

from cluster.errors import NotFound
from cluster.files import ranges
from cluster.files.store import FileStore
from cluster.files.zipfiles import Member, MemberReader, Table, Tables, member, read_table
from cluster.model import DistributionFile, Index
from cluster.names import IndexName, NormalizedName, display_version, project_name, version_sort_key
from cluster.simple.pages import file_path
from cluster.state.contents import docs_of
from cluster.state.database import Database
from cluster.state.links import LocatedFile
from cluster.web.access import is_public
from cluster.web.chains import readable_chain
from cluster.web.filebody import Pieces, send_pieces
from cluster.web.fileplan import Plan
from cluster.web.files import Files
from cluster.web.identity import Identity
from cluster.web.replies import Reply, redirect
from cluster.web.request import NodeRequest
from cluster.web.routes import answering, checked

DOCS_PATH: Final = "/<user>/<name>/<own:project>/<own:version>/+doc"
FRAME_PATH: Final = "/<user>/<name>/<own:project>/<own:version>/+d"
LATEST, STABLE = "latest", "stable"
MAX_AGE_SECONDS: Final = 60
SANDBOX: Final = (
    "sandbox allow-scripts allow-forms allow-popups allow-popups-to-escape-sandbox "
    "allow-downloads; form-action 'self'; frame-ancestors 'self'"
)
# Sphinx's search stops at the first use of localStorage, which a sandboxed page does not have:
# each script is preceded by one that lives as long as the page. On one line, for line numbers.
STORAGE: Final = (
    b"try{window.localStorage}catch(e){(function(){var m=new Map(),s={"
    b"getItem:function(k){k=String(k);return m.has(k)?m.get(k):null},"
    b"setItem:function(k,v){m.set(String(k),String(v))},"
    b"removeItem:function(k){m.delete(String(k))},clear:function(){m.clear()},"
    b"key:function(i){return Array.from(m.keys())[i]||null},get length(){return m.size}};"
    b"if(typeof window!=='undefined')['localStorage','sessionStorage'].forEach(function(n){"
    b"Object.defineProperty(window,n,{value:s})})})()};"
)
_SCRIPT: Final = "text/javascript"
# Only what the library itself knows: the machine's own list would make nodes differ.
_TYPES: Final = mimetypes.MimeTypes()
for _type, _suffix in (
    (_SCRIPT, ".js"), (_SCRIPT, ".mjs"), ("application/json", ".map"), ("font/woff", ".woff"),
    ("font/woff2", ".woff2"), ("font/ttf", ".ttf"), ("text/plain", ".rst"), ("text/plain", ".md"),
    ("application/wasm", ".wasm"),
):  # fmt: skip
    _TYPES.add_type(_type, _suffix)


@frozen
class Page:
    """What a URL of documentation asks for; `version` may also be latest or stable."""

    index: IndexName
    project: NormalizedName
    version: str
    relpath: str


@define(eq=False)
class DocsPages:
    """Serves members of documentation zips, which are fetched as a whole when not here."""

    _database: Database
    _identity: Identity
    _store: FileStore
    _files: Files
    _tables: Tables = field(factory=Tables)
    # Reading a directory takes memory: one at a time, and nobody reads one twice.
    _reading: DeferredLock = field(factory=DeferredLock)

    async def serve(self, request: NodeRequest, page: Page) -> None:
        """Answer with one file. Raises NotFound, AuthenticationRequired, and UpstreamError when
        nobody who has the zip can be reached.
        """
        chain = await readable_chain(
            self._database, self._identity, request, page.index, page.project
        )
        located = await self._database.read(lambda c: find_docs(c, chain, page))
        sha256 = located.file.sha256 or ""
        if await self._store.size_of(sha256) is None:
            await self._files.fetch(
                located, f"/{quote(page.index)}/{file_path(located.file)}"
            ).done()
        found = member(await self._table(sha256), page.relpath)
        content_type = type_of(page.relpath)
        answer = _plan(request, f"{sha256[:32]}-{found.crc:08x}", content_type, found)
        if not is_public(chain):
            private = {"Cache-Control": f"max-age={MAX_AGE_SECONDS}, private"}
            answer = evolve(answer, headers={**answer.headers, **private})
        pieces: Pieces = MemberReader(self._store.path(sha256), found)
        if content_type.startswith(_SCRIPT):
            pieces = _WithStorage(pieces)
        await send_pieces(request, answer, pieces, self._store.threads)

    async def _table(self, sha256: str) -> Table:
        known = self._tables.get(sha256)
        if known is not None:
            return known
        await self._reading.acquire()
        try:
            table = self._tables.get(sha256)
            if table is None:
                table = await self._store.threads.run(read_table, self._store.path(sha256))
                self._tables.put(sha256, table)
            return table
        finally:
            self._reading.release()


def find_docs(connection: Connection, chain: list[Index], page: Page) -> LocatedFile:
    """The zip of the first index in the chain that has one for the version; raises NotFound."""
    held = [(index, docs_of(connection, (index.name, page.project))) for index in chain]
    versions = {display_version(version) for _, docs in held for version in docs}
    wanted = wanted_version(page.version, versions)
    for index, docs in held:
        for version, one in docs.items():
            if display_version(version) == wanted:
                hashes = {"sha256": one.sha256}
                file = DistributionFile(one.filename, hashes=hashes, size=one.size)
                return LocatedFile(index, page.project, file)
    raise NotFound(f"no documentation of {page.project} {page.version} on {page.index}")


def wanted_version(asked: str, versions: set[str]) -> str | None:
    """Which of these versions is meant by one of them, "latest", or "stable"."""
    if asked not in (LATEST, STABLE):
        return display_version(asked)
    candidates = versions if asked == LATEST else {v for v in versions if _is_stable(v)}
    return max(candidates, key=version_sort_key, default=None)


def _is_stable(version: str) -> bool:
    try:
        return not Version(version).is_prerelease
    except InvalidVersion:
        return False


def type_of(name: str) -> str:
    """The content type of a member, by its name alone."""
    guessed, encoding = _TYPES.guess_type(name)
    if guessed is None or encoding is not None:
        return "application/octet-stream"
    is_text = guessed.startswith("text/") or guessed == "application/json"
    return f"{guessed}; charset=utf-8" if is_text else guessed


def _plan(request: NodeRequest, tag: str, content_type: str, found: Member) -> Plan:
    is_script = content_type.startswith(_SCRIPT)
    tag = f"{tag}-s1" if is_script else tag
    headers = {
        "ETag": f'"{tag}"',
        "Cache-Control": f"max-age={MAX_AGE_SECONDS}",
        "Content-Security-Policy": SANDBOX,
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Vary": "Origin, Referer",
    }
    if _comes_from_here(request):
        headers["Access-Control-Allow-Origin"] = "null"
    tags = request.header("If-None-Match")
    if tags is not None and ranges.if_none_match(tags, tag):
        return Plan(304, headers)
    size = found.size + (len(STORAGE) if is_script else 0)
    headers |= {"Content-Type": content_type, "Content-Length": str(size)}
    return Plan(200, headers, request.method != b"HEAD", 0, size)


def _comes_from_here(request: NodeRequest) -> bool:
    # The pages of one documentation may load each other, for fonts, modules and the summaries of
    # search results. "null" alone would be any sandboxed page of the whole internet; where a
    # page is, only its browser can say.
    if request.header("Origin") != "null":
        return False
    try:
        page = urlsplit(request.header("Referer") or "")
    except ValueError:
        return False
    folder = request.path.decode("ascii").partition("/+doc/")[0] + "/+doc/"
    return page.netloc == request.header("Host") and page.path.startswith(folder)


@define(eq=False)
class _WithStorage:
    """A script behind the storage that it may want."""

    _script: Pieces
    _begun: bool = False

    def open(self) -> None:
        self._script.open()

    def read(self) -> bytes:
        data = self._script.read()
        if self._begun:
            return data
        self._begun = True
        return STORAGE + data

    def close(self) -> None:
        self._script.close()


def add_routes(app: Klein) -> None:
    """Register documentation; the resource is `docs` of the application."""
    for path, handler in (
        (DOCS_PATH, _page),
        (DOCS_PATH + "/", _page),
        (DOCS_PATH + "/<path:relpath>", _page),
        (FRAME_PATH, _frame),
        (FRAME_PATH + "/", _frame),
        (FRAME_PATH + "/<path:relpath>", _frame),
    ):
        app.route(path, methods=["GET", "HEAD"], strict_slashes=True)(answering(handler))


async def _page(
    web: Any, request: NodeRequest, user: str, name: str, project: str, version: str,
    relpath: str = "",
) -> Reply | None:  # fmt: skip
    page = Page(checked(user, name), project_name(project), version, relpath)
    if not relpath or project != page.project:
        return _redirect(request, page)
    if relpath.endswith("/"):
        page = evolve(page, relpath=f"{relpath}index.html")
    docs: DocsPages = web.docs
    await docs.serve(request, page)
    return None


async def _frame(
    web: Any, request: NodeRequest, user: str, name: str, project: str, version: str,
    relpath: str = "",
) -> Reply:  # fmt: skip
    return _redirect(request, Page(checked(user, name), project_name(project), version, relpath))


def _redirect(request: NodeRequest, page: Page) -> Reply:
    # Relative, so that it is right behind any front: from the asked path up to its index.
    up = "../" * (request.path.count(b"/") - 3)
    path = quote(f"{page.project}/{page.version}/+doc/{page.relpath or 'index.html'}", safe="/+")
    _, mark, query = request.uri.decode("ascii").partition("?")
    return redirect(f"{up}{path}{mark}{query}", 302)
