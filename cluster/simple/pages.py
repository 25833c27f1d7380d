"""The pages of the simple API as bytes (pure): standards S6-S9, H, J, Y2.

The same value gives the same bytes on every node and every Python: replicas are compared
by their pages, and a page's ETag is the digest of its bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from html import escape
from urllib.parse import quote

import orjson
from attrs import frozen

from cluster.model import DistributionFile, ProjectPage
from cluster.names import normalize, version_sort_key
from cluster.simple.negotiate import Format

API_VERSION = "1.4"
_API_VERSION_WITHOUT_SIZES = "1.0"  # 1.1 makes `size` mandatory (PEP 700, standards J7)
_TO_INDEX = "../../"  # from <index>/+simple/<project>/
# For a file without sha256: what installers know, strong before weak, before what few know.
_HASH_PREFERENCE = (
    "sha512", "sha384", "sha224", "blake2b", "blake2s",
    "sha3_512", "sha3_384", "sha3_256", "sha3_224", "sha1", "md5",
)  # fmt: skip


@frozen
class ListEntry:
    """One line of the project list: the name as displayed, the serial of its last change."""

    name: str
    serial: int


def digest_prefix(file: DistributionFile) -> str:
    """The 16 hex digits by which a file's URL names it: of its content, else of its source URL."""
    return (file.sha256 or sha256((file.url or "").encode()).hexdigest())[:16]


def file_path(file: DistributionFile) -> str:
    """A file's quoted path below its index: ``+f/abc/0123456789abc/name`` by sha256,
    ``+e/…`` by source URL while no sha256 is known."""
    prefix = digest_prefix(file)
    kind = "+f" if file.sha256 else "+e"
    return f"{kind}/{prefix[:3]}/{prefix[3:]}/{quote(file.filename, safe='')}"


def render_project(page: ProjectPage, format: Format) -> bytes:
    """A project page in the given format; files in the order of `page.files`.

    A quarantined project offers no file and no version (PEP 792).
    """
    shown = () if page.status.status == "quarantined" else page.files
    return _project_json(page, shown) if format.is_json else _project_html(page, shown)


def render_list_head(format: Format, serial: int) -> bytes:
    """How the project list begins; `serial` is that of the last change to it."""
    if format.is_json:
        meta = orjson.dumps({"api-version": API_VERSION, "_last-serial": serial})
        return b'{"meta":' + meta + b',"projects":['
    return _head("Simple index", []).encode()


def render_list_items(format: Format, items: Iterable[ListEntry], first: bool) -> bytes:
    """A batch of lines of the project list; `first` if none was rendered before."""
    if not format.is_json:
        return "".join(
            f'<a href="{quote(normalize(item.name))}/">{escape(item.name)}</a><br>\n'
            for item in items
        ).encode()
    batch = orjson.dumps([{"name": i.name, "_last-serial": i.serial} for i in items])[1:-1]
    return batch if first or not batch else b"," + batch


def render_list_tail(format: Format) -> bytes:
    """How the project list ends."""
    return b"]}" if format.is_json else b"</body>\n</html>\n"


def _project_html(page: ProjectPage, shown: tuple[DistributionFile, ...]) -> bytes:
    metas = [("pypi:project-status", page.status.status)]
    if page.status.reason:
        metas.append(("pypi:project-status-reason", page.status.reason))
    lines = [_head(f"Links for {page.name}", metas)]
    lines.extend(_anchor(file) for file in shown)
    lines.append(f"</body>\n</html>\n<!--SERIAL {page.serial}-->\n")
    return "".join(lines).encode()


def _head(title: str, metas: list[tuple[str, str]]) -> str:
    rows = "".join(
        f'<meta name="{name}" content="{escape(content)}">\n'
        for name, content in [("pypi:repository-version", API_VERSION), *metas]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"{rows}<title>{escape(title)}</title>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
    )


def _anchor(file: DistributionFile) -> str:
    attributes = [f'href="{_TO_INDEX}{file_path(file)}{_fragment(file)}"']
    if file.requires_python:
        attributes.append(f'data-requires-python="{escape(file.requires_python)}"')
    if file.core_metadata:
        value = f"sha256={file.core_metadata}"
        attributes.append(f'data-core-metadata="{value}" data-dist-info-metadata="{value}"')
    if file.yanked is not None:
        attributes.append(f'data-yanked="{escape(file.yanked)}"')
    if file.provenance and file.provenance.startswith("https://"):
        attributes.append(f'data-provenance="{escape(file.provenance)}"')
    if file.upload_time:
        attributes.append(f'data-upload-time="{escape(file.upload_time)}"')
    if file.size is not None:
        attributes.append(f'data-size="{file.size}"')
    return f"<a {' '.join(attributes)}>{escape(file.filename)}</a><br>\n"


def _fragment(file: DistributionFile) -> str:
    if file.sha256:
        return f"#sha256={file.sha256}"
    best = next((name for name in _HASH_PREFERENCE if name in file.hashes), None)
    return f"#{best}={file.hashes[best]}" if best else ""


def _project_json(page: ProjectPage, shown: tuple[DistributionFile, ...]) -> bytes:
    sized = all(file.size is not None for file in shown)
    status = {"status": page.status.status}
    if page.status.reason:
        status["reason"] = page.status.reason
    return orjson.dumps(
        {
            "meta": {
                "api-version": API_VERSION if sized else _API_VERSION_WITHOUT_SIZES,
                "_last-serial": page.serial,
            },
            "name": page.name,
            "project-status": status,
            "versions": _versions(page, shown),
            "files": [_file_json(file) for file in shown],
        }
    )


def _versions(page: ProjectPage, shown: tuple[DistributionFile, ...]) -> list[str]:
    if page.status.status == "quarantined":
        return []
    listed = {file.version for file in shown if file.version is not None}
    # The text breaks ties between spellings that PEP 440 holds equal: a set has no order.
    return sorted(listed.union(page.bare_versions), key=version_sort_key)


def _file_json(file: DistributionFile) -> dict[str, object]:
    facts: dict[str, object] = {
        "filename": file.filename,
        "url": _TO_INDEX + file_path(file),
        "hashes": dict(sorted(file.hashes.items())),
        "requires-python": file.requires_python or None,
        "core-metadata": {"sha256": file.core_metadata} if file.core_metadata else False,
        "yanked": False if file.yanked is None else file.yanked or True,
        "provenance": file.provenance,
    }
    if file.size is not None:
        facts["size"] = file.size
    if file.upload_time:
        facts["upload-time"] = file.upload_time
    return facts
