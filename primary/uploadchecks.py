"""What must agree before an upload is taken: digests, file name, form, and metadata inside.

Nothing is extracted to disk and no code of the package runs; archives are read member by
member, with bounds (security.md T5, T6). All of it blocks: run it in a thread.
"""

from __future__ import annotations

import hmac
import io
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen
from packaging.metadata import parse_email
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    NormalizedName,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from cluster.errors import InvalidRequest
from cluster.files.sink import Digests
from cluster.names import is_filename, project_name
from primary.tarsearch import find_file
from primary.uploadform import Fields

_MAX_MEMBERS = 20_000
_MAX_METADATA_BYTES = 10 << 20
_MAX_DIRECTORY_BYTES = 32 << 20
_MAX_DOCS_BYTES = 8 << 30
# Only these unpack in steps as small as one asks for: of others a kilobyte can fill the memory.
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_FILENAME = re.compile(r"[\w.+!-]+", re.ASCII)
# What the standard library raises for archives that are cut, forged or encrypted.
_BROKEN_ARCHIVE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError,
    RuntimeError, ValueError,
)  # fmt: skip
_DIGEST_FIELDS = {
    "sha256_digest": "sha256", "blake2_256_digest": "blake2b_256", "md5_digest": "md5",
}  # fmt: skip


@frozen
class Inspected:
    """What a distribution file says of itself. `metadata` is a wheel's METADATA, byte for byte."""

    name: str
    project: NormalizedName
    version: str
    requires_python: str | None
    metadata: bytes | None


def check_digests(fields: Fields, digests: Digests) -> None:
    """Verify every digest in the form (standards U1); devpi-client sends none.

    Raises InvalidRequest for a file that is not the one which was sent.
    """
    for name, algorithm in _DIGEST_FIELDS.items():
        stated = (fields.get(name) or [""])[0].strip().lower()
        found = digests.hashes[algorithm]
        if stated and not hmac.compare_digest(stated.encode(), found.encode()):
            raise InvalidRequest(f"the file's bytes do not have the {name} that the form states")


def inspect(path: Path, filename: str, fields: Fields) -> Inspected:
    """Compare a file with its name and the form; raises InvalidRequest for any difference."""
    project, version = _from_filename(filename)
    is_wheel = filename.endswith(".whl")
    filetype = (fields.get("filetype") or [""])[0]
    if filetype and filetype != ("bdist_wheel" if is_wheel else "sdist"):
        raise InvalidRequest(f"filetype {filetype!r} does not fit {filename!r}")
    metadata = read_wheel_metadata(path, filename) if is_wheel else read_pkg_info(path, filename)
    raw, _ = parse_email(metadata)
    for where, name, text in (
        ("the form", (fields.get("name") or [""])[0], (fields.get("version") or [""])[0]),
        ("the metadata inside", raw.get("name", ""), raw.get("version", "")),
    ):
        if canonicalize_name(name) != project:
            raise InvalidRequest(f"{where} names {name!r}, but the file is {filename!r}")
        if _version(text, where) != version:
            raise InvalidRequest(f"{where} has version {text!r}, but the file is {filename!r}")
    return Inspected(
        name=raw.get("name", project),
        project=project_name(raw.get("name", project)),
        version=str(version),
        requires_python=raw.get("requires_python") or None,
        metadata=metadata if is_wheel else None,
    )


def named_release(fields: Fields, version_needed: bool = True) -> tuple[str, NormalizedName, str]:
    """The name, normalized name and version in a form; an empty version where none is needed.

    Raises InvalidRequest.
    """
    name, version = ((fields.get(key) or [""])[0].strip() for key in ("name", "version"))
    project = project_name(name)
    if not version and not version_needed:
        return name, project, ""
    return name, project, str(_version(version, "the form"))


def check_docs(path: Path, filename: str) -> None:
    """Whether documentation is a zip file that can be served member by member.

    Raises InvalidRequest for anything that would leave a folder, fill a memory or needs a
    password.
    """
    try:
        with open_zip(path) as archive:
            members = archive.infolist()
            _check_members([member.filename for member in members], filename)
            if sum(member.file_size for member in members) > _MAX_DOCS_BYTES:
                raise InvalidRequest(f"{filename} unpacks to more than {_MAX_DOCS_BYTES} bytes")
            for member in members:
                if member.flag_bits & 1:
                    raise InvalidRequest(f"{filename} has an encrypted member")
                if member.compress_type not in _PACKINGS:
                    raise InvalidRequest(f"{filename} is packed by neither deflate nor nothing")
    except _BROKEN_ARCHIVE as error:
        raise InvalidRequest(f"{filename} is not a whole zip file: {error}") from None


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file of which no piece that fills the memory is read."""
    with _Sparing(path) as file, zipfile.ZipFile(file) as archive:
        yield archive


class _Sparing(io.FileIO):
    # zipfile reads the whole directory of an archive at once, whatever size it claims.
    def read(self, size: int | None = -1, /) -> bytes:
        rest = os.fstat(self.fileno()).st_size - self.tell()
        wanted = rest if size is None or size < 0 else min(size, rest)
        if wanted > _MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile("its directory is too large")
        return super().read(wanted) or b""


def _from_filename(filename: str) -> tuple[NormalizedName, Version]:
    if not is_filename(filename) or not _FILENAME.fullmatch(filename):
        raise InvalidRequest(f"{filename!r} cannot be the name of a distribution file")
    try:
        if filename.endswith(".whl"):
            name, version, _, _ = parse_wheel_filename(filename)
            return name, version
        return parse_sdist_filename(filename)
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion) as error:
        raise InvalidRequest(
            f"{filename!r} is neither a wheel nor a .tar.gz or .zip sdist: {error}"
        ) from None


def _version(text: str, where: str) -> Version:
    try:
        return Version(text)
    except ValueError:  # InvalidVersion, or a number of more digits than Python converts
        raise InvalidRequest(f"{where} has an invalid version {text[:100]!r}") from None


def read_wheel_metadata(path: Path, filename: str) -> bytes:
    """The METADATA of a wheel; raises InvalidRequest for an archive that is not plain and clear."""
    try:
        with open_zip(path) as archive:
            names = [member.filename for member in archive.infolist()]
            _check_members(names, filename)
            found = [n for n in names if n.endswith(".dist-info/METADATA") and n.count("/") == 1]
            if len(found) != 1:
                raise InvalidRequest(f"{filename} has {len(found)} METADATA files instead of one")
            return _member(archive, found[0], filename)
    except _BROKEN_ARCHIVE as error:
        raise InvalidRequest(f"{filename} is not a whole zip file: {error}") from None


def read_pkg_info(path: Path, filename: str) -> bytes:
    """The PKG-INFO in the top folder of an sdist; raises InvalidRequest."""
    try:
        if filename.endswith(".zip"):
            return _zip_pkg_info(path, filename)
        return _tar_pkg_info(path, filename)
    except _BROKEN_ARCHIVE as error:
        raise InvalidRequest(f"{filename} is not a whole archive: {error}") from None


def _tar_pkg_info(path: Path, filename: str) -> bytes:
    found = find_file(path, _is_top_pkg_info, _MAX_METADATA_BYTES + 1)
    if found is None:
        raise InvalidRequest(f"{filename} has no PKG-INFO in its top folder")
    return _bounded(found, filename)


def _zip_pkg_info(path: Path, filename: str) -> bytes:
    with open_zip(path) as archive:
        names = [member.filename for member in archive.infolist()]
        _check_members(names, filename)
        for name in names:
            if _is_top_pkg_info(name):
                return _member(archive, name, filename)
    raise InvalidRequest(f"{filename} has no PKG-INFO in its top folder")


def _member(archive: zipfile.ZipFile, name: str, filename: str) -> bytes:
    if archive.getinfo(name).compress_type not in _PACKINGS:
        raise InvalidRequest(f"the metadata in {filename} is packed by neither deflate nor nothing")
    with archive.open(name) as member:
        return _bounded(member.read(_MAX_METADATA_BYTES + 1), filename)


def _is_top_pkg_info(name: str) -> bool:
    return name.removeprefix("./").count("/") == 1 and name.endswith("/PKG-INFO")


def _bounded(data: bytes, filename: str) -> bytes:
    if len(data) > _MAX_METADATA_BYTES:
        raise InvalidRequest(f"the metadata in {filename} is too large")
    return data


def _check_members(names: list[str], filename: str) -> None:
    if len(names) > _MAX_MEMBERS:
        raise InvalidRequest(f"{filename} has more than {_MAX_MEMBERS} members")
    if len(set(names)) != len(names):
        raise InvalidRequest(f"{filename} has two members of one name")
    for name in names:
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
            raise InvalidRequest(f"{filename} has a member outside its own folder: {name!r}")
