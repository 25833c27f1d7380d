"""The generated data set: wheels and sdists whose bytes are the same in every run."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
import zipfile
from collections.abc import Iterator
from functools import cached_property

from attrs import define

PREFIX = "bench-project"
BIG_PROJECT = "bench-big"
SIZED_PROJECT = "bench-sized"
_EPOCH = (2020, 1, 1, 0, 0, 0)
_FILLER_BYTES = 2_000


@define(frozen=True, slots=False)
class DataFile:
    """One distribution file: what an upload form says about it, and its content when asked for.

    Content is generated on demand, so that a data set is a list of small values; `filler_bytes`
    is the size of the incompressible module inside.
    """

    project: str
    version: str
    filename: str
    filler_bytes: int = _FILLER_BYTES

    @property
    def is_wheel(self) -> bool:
        """Whether this is a wheel; else it is an sdist."""
        return self.filename.endswith(".whl")

    @cached_property
    def content(self) -> bytes:
        """The whole file."""
        return _wheel(self) if self.is_wheel else _sdist(self)

    def form_fields(self) -> dict[str, str]:
        """The fields of the legacy upload form, as twine sends them (without the file)."""
        return {
            ":action": "file_upload",
            "protocol_version": "1",
            "metadata_version": "2.1",
            "name": self.project,
            "version": self.version,
            "filetype": "bdist_wheel" if self.is_wheel else "sdist",
            "pyversion": "py3" if self.is_wheel else "source",
            "summary": "Generated for measurements",
            "requires_python": ">=3.8",
            "sha256_digest": hashlib.sha256(self.content).hexdigest(),
        }


def release(project: str, version: str) -> tuple[DataFile, DataFile]:
    """The wheel and the sdist of one release."""
    return wheel(project, version), _sdist_file(project, version)


def wheel(project: str, version: str, filler_bytes: int = _FILLER_BYTES) -> DataFile:
    """One pure wheel whose size is a little more than `filler_bytes`."""
    return DataFile(project, version, f"{_stem(project, version)}-py3-none-any.whl", filler_bytes)


def project_names(count: int, prefix: str = PREFIX) -> tuple[str, ...]:
    """The normalized names of the small projects."""
    return tuple(f"{prefix}-{number:03}" for number in range(count))


def project_files(projects: tuple[str, ...], releases: int) -> Iterator[DataFile]:
    """Wheel and sdist of every release of every project, release by release.

    Neighbours belong to different projects, as they do on a server with many uploaders.
    """
    for number in range(releases):
        for project in projects:
            yield from release(project, f"1.{number}")


def sized_files(large_bytes: int) -> tuple[DataFile, DataFile]:
    """A wheel of 20 kB and one of `large_bytes`."""
    return wheel(SIZED_PROJECT, "1.0", 19_000), wheel(SIZED_PROJECT, "2.0", large_bytes)


def big_filenames(count: int) -> Iterator[tuple[str, str]]:
    """(version, filename) of the files of the big project: releases of 20 platform wheels."""
    for number in range(count):
        version = f"{number // 20}.0"
        tag = f"cp3{number % 20}-cp3{number % 20}-manylinux_2_17_x86_64.manylinux2014_x86_64"
        yield version, f"{_stem(BIG_PROJECT, version)}-{tag}.whl"


def _stem(project: str, version: str) -> str:
    return f"{project.replace('-', '_')}-{version}"


def _sdist_file(project: str, version: str) -> DataFile:
    return DataFile(project, version, f"{_stem(project, version)}.tar.gz")


def _metadata(file: DataFile) -> bytes:
    return (
        f"Metadata-Version: 2.1\nName: {file.project}\nVersion: {file.version}\n"
        "Summary: Generated for measurements\nRequires-Python: >=3.8\n\nNothing to see.\n"
    ).encode()


def _filler(file: DataFile) -> bytes:
    return random.Random(file.filename).randbytes(file.filler_bytes)


def _wheel(file: DataFile) -> bytes:
    info = f"{_stem(file.project, file.version)}.dist-info"
    members = {
        f"{file.project.replace('-', '_')}/data.bin": _filler(file),
        f"{info}/METADATA": _metadata(file),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*members, f"{info}/RECORD"])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in [*members.items(), (f"{info}/RECORD", record.encode())]:
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)
    return buffer.getvalue()


def _sdist(file: DataFile) -> bytes:
    stem = _stem(file.project, file.version)
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=1) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for name, content in (("PKG-INFO", _metadata(file)), ("data.bin", _filler(file))):
            member = tarfile.TarInfo(f"{stem}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
