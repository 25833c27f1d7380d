"""The legacy JSON API below an index: ``/<user>/<index>/pypi/<name>[/<version>]/json``.

bandersnatch, pipenv and scanners ask for it (standards L1-L4). It shows what the project's
simple page shows, with the metadata that a hosted index was given; of a mirrored project only
what its files say is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote

from attrs import define
from klein import Klein
from sqlalchemy import Connection, func, select

from cluster.errors import InvalidRequest, NotFound
from cluster.model import DistributionFile, Index, ProjectPage
from cluster.names import IndexName, NormalizedName, display_version, project_name, version_sort_key
from cluster.search.documents import latest
from cluster.simple.pages import file_path
from cluster.state import contents, queries
from cluster.state.database import Database
from cluster.state.schema import listing
from cluster.web.chains import readable_chain
from cluster.web.identity import Identity
from cluster.web.outside import outside_url
from cluster.web.replies import Reply, json_reply, redirect
from cluster.web.request import NodeRequest
from cluster.web.routes import answering, checked
from cluster.web.simple import SimplePages, matches

MAX_AGE_SECONDS = 60
"""How long clients keep a document; as for simple pages, what an upload may take to be seen."""

_TEXTS: Final = (
    "author", "author_email", "description", "description_content_type", "download_url",
    "home_page", "keywords", "license", "license_expression", "maintainer", "maintainer_email",
    "requires_python", "summary",
)  # fmt: skip
# By the names under which releases keep them, where those differ.
_LISTS: Final = {
    "classifiers": "classifiers", "dynamic": "dynamic", "license_files": "license_file",
    "provides_extra": "provides_extras", "requires_dist": "requires_dist",
}  # fmt: skip
_UNKNOWN_DOWNLOADS: Final = {"last_day": -1, "last_month": -1, "last_week": -1}


@define
class LegacyJson:
    """Answers with the documents of projects and releases."""

    _database: Database
    _simple: SimplePages
    _identity: Identity
    _outside_url: str | None

    async def project(
        self, request: NodeRequest, index: IndexName, name: str, version: str | None = None
    ) -> Reply:
        """A project's document, or one release's; raises NotFound, UpstreamError."""
        try:
            project = project_name(name)
        except InvalidRequest:
            raise NotFound(f"{name!r} cannot be a project") from None
        if project != name:
            middle = "" if version is None else f"{quote(version, safe='')}/"
            return redirect(f"/{quote(index)}/pypi/{project}/{middle}json")
        document = await self.document(request, index, project, version)
        return _conditional(request, json_reply(document), document["last_serial"])

    async def document(
        self, request: NodeRequest, index: IndexName, project: NormalizedName, version: str | None
    ) -> dict[str, Any]:
        """The document as a value; raises NotFound, AuthenticationRequired, UpstreamError."""
        page = await self._simple.current_page(request, index, project)
        chain = await readable_chain(self._database, self._identity, request, index, project)
        root = f"{outside_url(request, self._outside_url)}/{quote(index)}"

        def build(connection: Connection) -> dict[str, Any]:
            wanted = _chosen(page, version)
            facts = _facts(connection, index, chain, (project, wanted))
            serial = max(page.serial, _listed_at(connection, chain, project))
            return render(page, wanted, facts, serial, root, with_releases=version is None)

        return await self._database.read(build)


def _chosen(page: ProjectPage, version: str | None) -> str:
    """The version that the document is about; raises NotFound for one that is not there."""
    known = versions(page)
    if version is None:
        return latest(known)
    wanted = display_version(version)
    if wanted not in known:
        raise NotFound(f"no release {version!r} of {page.name}")
    return wanted


def versions(page: ProjectPage) -> list[str]:
    """The versions that a page shows, oldest first; none of a quarantined project (PEP 792)."""
    if page.status.status == "quarantined":
        return []
    of_files = {display_version(f.version) for f in page.files if f.version}
    bare = {display_version(version) for version in page.bare_versions}
    return sorted(of_files | bare, key=version_sort_key)


def _facts(
    connection: Connection,
    index: IndexName,
    readable: Sequence[Index],
    release: tuple[NormalizedName, str],
) -> Mapping[str, Any]:
    """The metadata that the first index of the chain was given, and the name as written there."""
    project, version = release
    names = {one.name for one in readable}
    start = queries.index_or_404(connection, index)
    for source in queries.contributing(connection, start, project):
        where = source.name, project
        found = contents.release(connection, where, version) if source.name in names else None
        if found is not None:
            return {"name": contents.display_name(connection, where) or project, **found}
    return {}


def _listed_at(connection: Connection, chain: Sequence[Index], project: NormalizedName) -> int:
    """The serial at which a mirror's list last named a project.

    A mirror of ours gives up on a project whose document is older than the list says (L4).
    """
    statement = select(func.max(listing.c.serial)).where(
        listing.c.index_name.in_([i.name for i in chain]), listing.c.name == project
    )
    return connection.execute(statement).scalar() or 0


def render(
    page: ProjectPage, version: str, facts: Mapping[str, Any], serial: int, root: str, *,
    with_releases: bool,
) -> dict[str, Any]:  # fmt: skip
    """The document of a project (pure); `root` is the index's absolute URL."""
    files: dict[str, list[dict[str, Any]]] = {v: [] for v in versions(page)}
    for file in page.files:
        if file.version and display_version(file.version) in files:
            files[display_version(file.version)].append(file_json(file, root))
    urls = files.get(version, [])
    document = {
        "info": info(page.name, version, facts, urls, root),
        "last_serial": serial,
        "ownership": {"organization": None, "roles": []},
        "urls": urls,
        "vulnerabilities": [],
    }
    if with_releases:
        document["releases"] = files
    return document


def info(
    project: str, version: str, facts: Mapping[str, Any], urls: Sequence[Mapping[str, Any]],
    root: str,
) -> dict[str, Any]:  # fmt: skip
    """What is known of a release; what is not is None, as the public index says it."""
    texts = {key: _text(facts.get(key)) for key in _TEXTS}
    lists = {key: _list(facts.get(stored)) for key, stored in _LISTS.items()}
    lists["classifiers"] = lists["classifiers"] or []
    texts["requires_python"] = texts["requires_python"] or next(
        (url["requires_python"] for url in urls if url["requires_python"]), None
    )
    reasons = [url["yanked_reason"] for url in urls if url["yanked_reason"]]
    pairs = [u.partition(",") for u in _list(facts.get("project_urls")) or []]
    page_url = f"{root}/+simple/{project}/"
    return {
        **texts,
        **lists,
        "bugtrack_url": None,
        "docs_url": None,
        "platform": _text(facts.get("platform")),
        "name": facts.get("name") or project,
        "version": version,
        "downloads": _UNKNOWN_DOWNLOADS,
        "package_url": page_url,
        "project_url": page_url,
        "project_urls": {label.strip(): url.strip() for label, _, url in pairs} or None,
        "release_url": page_url,
        "yanked": bool(urls) and all(url["yanked"] for url in urls),
        "yanked_reason": reasons[0] if reasons else None,
    }


def _text(value: Any) -> str | None:
    return ", ".join(map(str, value)) if isinstance(value, list) else value or None


def _list(value: Any) -> list[str] | None:
    return [str(v) for v in value] if isinstance(value, list) else value and [str(value)]


def file_json(file: DistributionFile, root: str) -> dict[str, Any]:
    """A file as L2 lists its facts; a time has two forms, one of them without its zone."""
    hashes = file.hashes
    digests = {"md5": hashes.get("md5"), "sha256": file.sha256}
    blake2 = hashes.get("blake2b_256")
    uploaded = file.upload_time
    return {
        "comment_text": "",
        "core-metadata": {"sha256": file.core_metadata} if file.core_metadata else False,
        "digests": {k: v for k, v in {**digests, "blake2b_256": blake2}.items() if v},
        "downloads": -1,
        "filename": file.filename,
        "has_sig": False,
        "md5_digest": hashes.get("md5"),
        "packagetype": package_type(file.filename),
        "python_version": python_version(file.filename),
        "requires_python": file.requires_python,
        "size": file.size,
        "upload_time": uploaded and uploaded[:19],
        "upload_time_iso_8601": uploaded,
        "url": f"{root}/{file_path(file)}",
        "yanked": file.yanked is not None,
        "yanked_reason": file.yanked or None,
    }


_TYPES: Final = {
    ".whl": "bdist_wheel", ".egg": "bdist_egg", ".exe": "bdist_wininst", ".msi": "bdist_msi",
    ".rpm": "bdist_rpm", ".dmg": "bdist_dmg", ".deb": "bdist_dumb",
}  # fmt: skip


def package_type(filename: str) -> str:
    """distutils' word for a kind of file, by its name."""
    return _TYPES.get(filename[-4:].lower(), "sdist")


def python_version(filename: str) -> str:
    """The Python tag in a file's name; ``source`` for a source distribution."""
    kind = package_type(filename)
    parts = filename[:-4].split("-")
    if kind == "bdist_wheel" and len(parts) >= 5:
        return parts[-3]
    tag = next((p for p in parts[2:] if p.startswith("py")), "any").removeprefix("py")
    return "source" if kind == "sdist" else tag


def _conditional(request: NodeRequest, reply: Reply, serial: int) -> Reply:
    etag = f'"{sha256(reply.body).hexdigest()[:32]}"'
    headers = {
        "ETag": etag,
        "Cache-Control": f"max-age={MAX_AGE_SECONDS}, private",
        "X-PyPI-Last-Serial": str(serial),
    }
    if matches(request, etag):
        return Reply(304, headers=headers)
    return Reply(200, reply.body, headers=headers)


def add_routes(app: Klein) -> None:
    """Register the documents' paths, with and without the final slash (L1)."""
    for path in ("/json", "/json/", "/<version>/json", "/<version>/json/"):
        route = app.route(
            f"/<user>/<index>/pypi/<name>{path}", methods=["GET", "HEAD"], strict_slashes=True
        )
        route(answering(_legacy))


async def _legacy(
    web: Any, request: NodeRequest, user: str, index: str, name: str, version: str | None = None
) -> Reply:
    legacy: LegacyJson = web.finding.legacy
    return await legacy.project(request, checked(user, index), name, version)
