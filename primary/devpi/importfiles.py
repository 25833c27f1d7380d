"""A file of a devpi dump, described by the importer and by its own bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.metadata import parse_email

from cluster.errors import InvalidRequest
from cluster.files.store import FileStore
from cluster.importing.dump import DOCS, RELEASE_FILE, TOX_RESULT
from cluster.model import DistributionFile
from cluster.names import IndexName, display_version, index_name, project_name
from cluster.threads import Runner
from primary.devpi.importchanges import Arrival
from primary.uploadchecks import read_pkg_info, read_wheel_metadata

Body = Mapping[str, Any]

_KINDS = (RELEASE_FILE, DOCS, TOX_RESULT)
_SDISTS = (".tar.gz", ".zip")


def text(body: Body, key: str) -> str:
    """A text that must be there; raises InvalidRequest."""
    value = body.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{key} must be a text")
    return value


def index_of(body: Body) -> IndexName:
    """The index that is meant; raises InvalidRequest."""
    user, _, name = text(body, "index").partition("/")
    return index_name(user, name)


async def arrival_of(
    body: Body, sha256: str, size: int, store: FileStore, heavy: Runner
) -> Arrival:
    """Describe a file whose bytes are in the store; raises InvalidRequest.

    A wheel's METADATA is kept beside it, for installers. Archives that cannot be read come over
    as they are.
    """
    kind, name, filename = text(body, "kind"), text(body, "project"), text(body, "filename")
    if kind not in _KINDS:
        raise InvalidRequest(f"unknown kind of file: {kind!r}")
    log = body.get("log") or []
    if not isinstance(log, list):
        raise InvalidRequest("log must be a list")
    metadata, requires_python = b"", None
    if kind == RELEASE_FILE:
        metadata, requires_python = await heavy.run(_inside, store.path(sha256), filename)
    core = None
    if metadata and filename.endswith(".whl"):
        core = (await store.add_bytes(metadata)).sha256
    file = DistributionFile(
        filename,
        version=display_version(text(body, "version")),
        hashes={"sha256": sha256},
        size=size,
        url=body.get("url"),
        requires_python=requires_python,
        upload_time=body.get("upload_time"),
        core_metadata=core,
    )
    version = text(body, "version")
    tested = body.get("tested")
    return Arrival(kind, index_of(body), project_name(name), name, version, file, log, tested)


def _inside(path: Path, filename: str) -> tuple[bytes, str | None]:
    metadata = _metadata(path, filename)
    return metadata, parse_email(metadata)[0].get("requires_python") or None


def _metadata(path: Path, filename: str) -> bytes:
    try:
        if filename.endswith(".whl"):
            return read_wheel_metadata(path, filename)
        return read_pkg_info(path, filename) if filename.endswith(_SDISTS) else b""
    except InvalidRequest:
        return b""
