"""A page of any upstream to values (pure): PEP 503, 592, 629, 658, 691, 700, 714, 740, 792.

Upstreams are strangers. A page that is not a project page is an error; a page with a bad
entry is a page without that entry, which is named in `ParsedProject.skipped`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote, urljoin, urlsplit

import orjson
from attrs import frozen

from cluster.errors import InvalidRequest, UpstreamError
from cluster.model import DistributionFile, ProjectStatus
from cluster.names import NormalizedName, display_version, normalize, version_sort_key
from cluster.upstream.facts import (
    MAX_FILES,
    belongs_to,
    read_file,
    read_text,
    too_many_files,
)
from cluster.upstream.listing import iter_names_html, iter_names_json
from cluster.upstream.markup import read_markup

__all__ = ["ParsedProject", "iter_names_html", "iter_names_json", "parse_project"]

_JSON_TYPES = ("application/json", "application/vnd.pypi.simple.v1+json")
_HTML_TYPES = ("text/html", "application/xhtml+xml", "application/vnd.pypi.simple.v1+html")
_STATUSES = ("active", "archived", "quarantined", "deprecated")
_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w.:-]+)""", re.ASCII | re.IGNORECASE)
# Others are rare, and some of Python's codecs take quadratic time.
_CHARSETS = {
    "utf-8": "utf-8-sig", "utf8": "utf-8-sig", "us-ascii": "ascii", "ascii": "ascii",
    "iso-8859-1": "latin-1", "latin-1": "latin-1", "latin1": "latin-1", "windows-1252": "cp1252",
}  # fmt: skip
# PEP 714: the first key that is there decides; the others are what older servers send.
_METADATA_KEYS = ("core-metadata", "data-core-metadata", "dist-info-metadata",
                  "data-dist-info-metadata")  # fmt: skip
_MAX_VERSION = 255
_MAX_SKIPPED_NAME = 200


@frozen
class ParsedProject:
    """What an upstream says about a project.

    `bare_versions` are listed without a file. `upstream_serial` counts in the upstream's own
    space and is never shown as ours. `skipped` names the entries left out, each with the reason.
    """

    files: tuple[DistributionFile, ...]
    bare_versions: tuple[str, ...]
    status: ProjectStatus
    upstream_serial: int | None
    skipped: tuple[str, ...]


def parse_project(
    body: bytes, content_type: str, url: str, project: NormalizedName
) -> ParsedProject:
    """Read a project page, or a flat page that has files of the project among others.

    `content_type` is the answer's header; `url` where the page was found after redirects, to
    which relative links refer. Raises UpstreamError if the body is no such page.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in _JSON_TYPES:
        return _parse_json(body, url, project)
    if media_type in _HTML_TYPES:
        return _parse_html(_decode(body, content_type), url, project)
    raise UpstreamError(f"not a project page: content type {media_type[:100]!a}")


def _parse_json(body: bytes, url: str, project: NormalizedName) -> ParsedProject:
    try:
        page = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise UpstreamError(f"not a project page: not JSON ({e.msg})") from e
    entries = page.get("files") if isinstance(page, dict) else None
    if not isinstance(entries, list):
        raise UpstreamError("not a project page: JSON without a list of files")
    if len(entries) > MAX_FILES:
        raise too_many_files()
    meta = _mapping(page.get("meta"))
    _check_api_version(meta.get("api-version"))
    status = _mapping(page.get("project-status") or meta.get("project-status"))
    files, skipped = _read_files((_json_claims(entry, url) for entry in entries), project)
    return ParsedProject(
        files=files,
        bare_versions=_bare_versions(page.get("versions"), files),
        status=_status(status.get("status"), status.get("reason")),
        upstream_serial=_serial(meta.get("_last-serial")),
        skipped=skipped,
    )


def _parse_html(text: str, url: str, project: NormalizedName) -> ParsedProject:
    page = read_markup(text, url)
    if page.has_form and not page.files:
        # Taken for an empty project, a login page would remove every file we know.
        raise UpstreamError("not a project page: HTML with a form and without a file")
    _check_api_version(page.metas.get("pypi:repository-version"))
    links: Iterable[dict[str, object]] = page.files
    if not _is_page_of(project, url):
        links = (link for link in links if belongs_to(str(link["filename"]), project))
    files, skipped = _read_files(links, project)
    if len(files) > MAX_FILES:
        raise too_many_files()
    metas = page.metas
    return ParsedProject(
        files=files,
        bare_versions=(),
        status=_status(metas.get("pypi:project-status"), metas.get("pypi:project-status-reason")),
        upstream_serial=page.serial,
        skipped=skipped,
    )


def _decode(body: bytes, content_type: str) -> str:
    declared = _CHARSET.search(content_type)
    codec = _CHARSETS.get(declared[1].lower() if declared else "utf-8")
    if codec is None:
        raise UpstreamError("not a project page: unknown character set")
    try:
        return body.decode(codec)
    except UnicodeDecodeError as e:
        raise UpstreamError(f"not a project page: not {codec} at byte {e.start}") from e


def _is_page_of(project: NormalizedName, url: str) -> bool:
    """Whether a URL is that of the project's own page, whose every file counts, however named."""
    parts = [part for part in urlsplit(url).path.split("/") if part]
    if parts and parts[-1].lower() in ("index.html", "index.htm"):
        parts.pop()
    return bool(parts) and normalize(unquote(parts[-1])) == project


def _read_files(
    entries: Iterable[Mapping[str, object] | None], project: NormalizedName
) -> tuple[tuple[DistributionFile, ...], tuple[str, ...]]:
    files: dict[str, DistributionFile] = {}
    skipped: list[str] = []
    for number, claims in enumerate(entries):
        name = claims.get("filename") if claims else None
        try:
            if claims is None:
                raise InvalidRequest("not a file object")
            file = read_file(claims, project)
            if file.filename in files:
                raise InvalidRequest("listed twice")
            files[file.filename] = file
        except InvalidRequest as e:
            label = name if isinstance(name, str) else f"entry {number}"
            skipped.append(f"{label[:_MAX_SKIPPED_NAME]!a}: {e}")
    return tuple(files.values()), tuple(skipped)


def _json_claims(entry: object, url: str) -> Mapping[str, object] | None:
    if not isinstance(entry, dict):
        return None
    metadata = next((entry[key] for key in _METADATA_KEYS if key in entry), None)
    return entry | {"url": _absolute(url, entry.get("url")), "core-metadata": metadata}


def _absolute(base: str, link: object) -> str | None:
    try:
        return urljoin(base, link) if isinstance(link, str) and link else None
    except ValueError:
        return None


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _check_api_version(version: object) -> None:
    """PEP 629: another major version is not ours to understand; none at all means 1.0."""
    if version is not None and str(version).strip().partition(".")[0] != "1":
        raise UpstreamError(f"unknown version of the simple API: {str(version)[:20]!a}")


def _status(status: object, reason: object) -> ProjectStatus:
    if not isinstance(status, str) or status not in _STATUSES:
        return ProjectStatus()
    return ProjectStatus(status, read_text(reason) or None)


def _serial(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None


def _bare_versions(listed: object, files: Iterable[DistributionFile]) -> tuple[str, ...]:
    if not isinstance(listed, list) or len(listed) > MAX_FILES:
        return ()
    texts = {v for v in listed if isinstance(v, str) and 0 < len(v) <= _MAX_VERSION}
    shown = {display_version(text) for text in texts if text.isprintable()}
    return tuple(sorted(shown.difference(f.version or "" for f in files), key=version_sort_key))
