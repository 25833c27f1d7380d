"""Finds one small file in a .tar.gz from a stranger, in linear time and flat memory (T6).

`tarfile` holds each extension header whole and searches it in quadratic time under the
interpreter's lock: an sdist of 600 kB stops a node for hours. Here only its reading of a single
header block is used.
"""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tarfile import TarInfo

from attrs import define

from cluster.errors import InvalidRequest

_MAX_MEMBERS = 20_000
_MAX_UNPACKED_BYTES = 8 << 30
_MAX_EXTENSION_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_NO_DATA = (
    tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)  # fmt: skip
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


def find_file(path: Path, wanted: Callable[[str], bool], most_bytes: int) -> bytes | None:
    """The first `most_bytes` of the first regular file whose name is `wanted`; None without one.

    Raises InvalidRequest for an archive that holds too much, and what gzip and tarfile raise for
    one that is broken.
    """
    with gzip.open(path) as unpacked:
        archive = _Archive(unpacked)
        long_name: str | None = None
        for member in archive.members():
            if member.type in _PAX:
                long_name = _pax_path(archive.extension(member)) or long_name
            elif member.type == tarfile.GNUTYPE_LONGNAME:
                long_name = _text(archive.extension(member).rstrip(b"\0"))
            elif member.type in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
                archive.extension(member)
            elif member.type in _NO_DATA:
                long_name = None
            elif member.isreg() and wanted(long_name or member.name):
                return archive.read(min(member.size, most_bytes))
            else:
                archive.skip(member.size)
                long_name = None
    return None


@define
class _Archive:
    _file: gzip.GzipFile
    _left: int = _MAX_UNPACKED_BYTES

    def members(self) -> Iterator[TarInfo]:
        for _ in range(_MAX_MEMBERS):
            header = self.read(tarfile.BLOCKSIZE)
            if not any(header):
                return
            member = TarInfo.frombuf(header, "utf-8", "surrogateescape")
            if member.size < 0 or member.type == tarfile.GNUTYPE_SPARSE:
                raise InvalidRequest("the archive has a member that is not a plain file")
            yield member
        raise _too_much()

    def extension(self, member: TarInfo) -> bytes:
        if member.size > _MAX_EXTENSION_BYTES:
            raise InvalidRequest("the archive has an oversized extension header")
        return self.read(-(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)[: member.size]

    def skip(self, size: int) -> None:
        left = -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if left > self._left:
            raise _too_much()
        while left:
            got = len(self.read(min(left, _CHUNK_BYTES)))
            if not got:
                raise EOFError("the archive ends inside a member")
            left -= got

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _too_much()
        return data


def _pax_path(data: bytes) -> str | None:
    """The path in a pax header, whose records are ``<length> <key>=<value>\\n`` (POSIX.1-2001)."""
    path, at = None, 0
    while at < len(data):
        space = data.find(b" ", at, at + 10)
        if space < 0 or not (length := int(data[at:space])) > space - at:
            raise InvalidRequest("the archive has a broken extension header")
        key, _, value = data[space + 1 : at + length].rstrip(b"\n").partition(b"=")
        if key == b"size":  # written for what is larger than 8 GiB
            raise _too_much()
        path, at = _text(value) if key == b"path" else path, at + length
    return path


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _too_much() -> InvalidRequest:
    return InvalidRequest("the archive holds too much to look through it")
