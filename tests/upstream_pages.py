"""What the test upstream says: projects read from a folder, rendered as each flavour of index.

The folder is the truth and is read at each request: ``<flavour>/<project>/<file>``. To add a
file is to put it there. Beside a file, ``<file>.yanked`` holds the reason of its yank and
``<file>.provenance`` makes the page name a provenance object; ``status.json`` is PEP 792.
"""

from __future__ import annotations

import hashlib
import html
import json
import zipfile
from datetime import UTC, datetime
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

from attrs import frozen

_SIDECARS = (".yanked", ".provenance", ".json", ".part")
_seen: dict[tuple[Path, int, int], UpstreamFile] = {}


@frozen
class UpstreamFile:
    """A file of the folder and the facts that its bytes state."""

    path: Path
    sha256: str
    size: int
    upload_time: str
    metadata: bytes | None
    requires_python: str | None

    @property
    def yanked(self) -> str | None:
        """The reason of the yank, None while not yanked."""
        return _text(self.path, ".yanked")

    @property
    def metadata_sha256(self) -> str | None:
        return None if self.metadata is None else hashlib.sha256(self.metadata).hexdigest()


def projects(folder: Path) -> list[str]:
    """The names of all projects of a flavour, sorted."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def files(folder: Path) -> list[UpstreamFile]:
    """The files of one project, by name; hashes are computed once per content."""
    return [_read(path) for path in sorted(folder.iterdir()) if path.suffix not in _SIDECARS]


def serial(folder: Path) -> int:
    """A number that grows with every file added to or removed from a folder."""
    return folder.stat().st_mtime_ns // 1000


def metadata(path: Path) -> bytes | None:
    """The core metadata of a wheel; None for other files and for files that do not exist."""
    if path.suffix != ".whl" or not path.exists():
        return None
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return archive.read(name)


def project_list_json(folder: Path) -> bytes:
    """PEP 691's project list with PyPI's serials."""
    serials = {name: serial(folder / name) for name in projects(folder)}
    rows = [{"name": name, "_last-serial": last} for name, last in serials.items()]
    last = max(serials.values(), default=0)
    return json.dumps({"meta": _meta(last), "projects": rows}).encode()


def project_list_html(names: list[str]) -> bytes:
    """PEP 503's project list, links relative to it."""
    return _html([f'<a href="{name}/">{name}</a>' for name in names])


def project_json(folder: Path, files_url: str) -> bytes:
    """PEP 691 at 1.4: everything that can be known of each file; URLs below `files_url`."""
    found = files(folder)
    page: dict[str, Any] = {
        "meta": _meta(serial(folder)),
        "name": folder.name,
        "versions": sorted({version(file.path.name) for file in found}),
        "files": [_file_json(file, f"{files_url}/{quote(file.path.name)}") for file in found],
    }
    status = folder / "status.json"
    if status.exists():
        page["project-status"] = json.loads(status.read_bytes())
    return json.dumps(page).encode()


def project_html(folder: Path, files_url: str, *, hashes: bool, facts: bool) -> bytes:
    """PEP 503: `hashes` as fragments and Python requirements, `facts` of later PEPs or not."""
    return _html([_anchor(file, files_url, hashes, facts) for file in files(folder)])


def version(filename: str) -> str:
    """The version in the name of a file that `builders` made."""
    return filename.removesuffix(".tar.gz").split("-")[1]


def generated_list_json(count: int) -> bytes:
    """The list of `count` generated names, for indexes of the largest size."""
    names = b",".join(b'{"name":"generated-project-%07d"}' % n for n in range(count))
    return b'{"meta":{"api-version":"1.4","_last-serial":%d},"projects":[%b]}' % (count, names)


def _file_json(file: UpstreamFile, url: str) -> dict[str, Any]:
    known = {"sha256": file.metadata_sha256} if file.metadata_sha256 else False
    yanked = file.yanked
    provenance = _text(file.path, ".provenance")
    return {
        "filename": file.path.name,
        "url": url,
        "hashes": {"sha256": file.sha256},
        "size": file.size,
        "upload-time": file.upload_time,
        "requires-python": file.requires_python,
        "yanked": False if yanked is None else yanked or True,
        "core-metadata": known,
        "provenance": provenance,
    }


def _anchor(file: UpstreamFile, files_url: str, hashes: bool, facts: bool) -> str:
    name = file.path.name
    attributes = f'href="{files_url}/{quote(name)}' + (f'#sha256={file.sha256}"' if hashes else '"')
    if file.requires_python:
        attributes += f' data-requires-python="{html.escape(file.requires_python)}"'
    if file.yanked is not None:
        attributes += f' data-yanked="{html.escape(file.yanked)}"'
    if facts and file.metadata_sha256:
        attributes += f' data-core-metadata="sha256={file.metadata_sha256}"'
    return f"<a {attributes}>{html.escape(name)}</a><br>"


def _read(path: Path) -> UpstreamFile:
    stat = path.stat()
    key = (path, stat.st_mtime_ns, stat.st_size)
    if key not in _seen:
        data = path.read_bytes()
        metadata_bytes = metadata(path)
        headers = BytesHeaderParser().parsebytes(metadata_bytes or b"")
        uploaded = datetime.fromtimestamp(stat.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        _seen[key] = UpstreamFile(
            path,
            hashlib.sha256(data).hexdigest(),
            len(data),
            uploaded,
            metadata_bytes,
            headers.get("Requires-Python"),
        )
    return _seen[key]


def _meta(last_serial: int) -> dict[str, Any]:
    return {"api-version": "1.4", "_last-serial": last_serial}


def _text(path: Path, suffix: str) -> str | None:
    beside = path.with_name(path.name + suffix)
    return beside.read_text() if beside.exists() else None


def _html(lines: list[str]) -> bytes:
    body = "\n".join(lines)
    head = "<!DOCTYPE html><html><head><title>Links</title></head>"
    return f"{head}<body>\n{body}\n</body></html>".encode()
