"""Single members of stored zip archives, unpacked piece by piece: nothing goes to the disk.

All functions block: call them in threads.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from attrs import define, field, frozen

from cluster.errors import NotFound, PymirrorError

PIECE_BYTES: Final = 256 << 10
MOST_DIRECTORY_BYTES: Final = 16 << 20
CACHED_MEMBERS: Final = 100_000

# Only these unpack in steps as small as one asks for: of others a kilobyte can fill the memory.
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_LOCAL_MAGIC = b"PK\x03\x04"


class DamagedArchive(PymirrorError):
    """The bytes of an archive are not what its directory says."""


@frozen
class Member:
    """Where a member's bytes are; sizes in bytes, `crc` is the CRC-32 of what is unpacked."""

    offset: int
    packing: int
    packed: int
    size: int
    crc: int


Table = Mapping[str, Member]
"""The members of an archive that may be served, by name."""


def read_table(path: Path) -> dict[str, Member]:
    """The members of a zip archive; those that are encrypted, packed in an unusual way, or whose
    names lead elsewhere are left out. Raises DamagedArchive.
    """
    try:
        with _Sparing(path) as file, zipfile.ZipFile(file) as archive:
            return {
                info.filename: Member(
                    info.header_offset, info.compress_type, info.compress_size, info.file_size,
                    info.CRC,
                )
                for info in archive.infolist()
                if _servable(info)
            }  # fmt: skip
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DamagedArchive(f"not a zip archive that can be read: {error}") from None


def _servable(info: zipfile.ZipInfo) -> bool:
    segments = info.filename.split("/")
    return (
        not info.flag_bits & _ENCRYPTED
        and info.compress_type in _PACKINGS
        and not info.is_dir()
        and "\\" not in info.filename
        and ":" not in segments[0]
        and not {"", ".", ".."} & set(segments)
    )


class _Sparing(io.FileIO):
    # zipfile reads the whole directory of an archive at once, whatever size it claims.
    def read(self, size: int | None = -1, /) -> bytes:
        rest = os.fstat(self.fileno()).st_size - self.tell()
        wanted = rest if size is None or size < 0 else min(size, rest)
        if wanted > MOST_DIRECTORY_BYTES:
            raise zipfile.BadZipFile("its directory is too large")
        return super().read(wanted) or b""


@define(eq=False)
class MemberReader:
    """Unpacks one member of the archive at `path`; not for two threads at a time.

    `read` may give bytes that turn out wrong: the call that finds out raises DamagedArchive.
    """

    _path: Path
    _member: Member
    _fd: int | None = None
    _at: int = 0
    _end: int = 0
    _inflator: Any = None
    _unpacked: int = 0
    _crc: int = 0

    def open(self) -> None:
        """Find the member's bytes; `close` is due whatever this raises."""
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        header = os.pread(self._fd, _LOCAL_HEADER.size, self._member.offset)
        if len(header) < _LOCAL_HEADER.size:
            raise DamagedArchive("a member begins behind the end of its archive")
        magic, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        if magic != _LOCAL_MAGIC:
            raise DamagedArchive("no member begins where the directory says")
        self._at = self._member.offset + _LOCAL_HEADER.size + name_length + extra_length
        self._end = self._at + self._member.packed
        if self._member.packing == zipfile.ZIP_DEFLATED:
            self._inflator = zlib.decompressobj(-zlib.MAX_WBITS)

    def read(self) -> bytes:
        """The next bytes, at most PIECE_BYTES; empty at the end, when all were right."""
        try:
            data = self._packed() if self._inflator is None else self._inflated()
        except zlib.error as error:
            raise DamagedArchive(f"a member cannot be unpacked: {error}") from None
        self._unpacked += len(data)
        self._crc = zlib.crc32(data, self._crc)
        is_end = not data or self._unpacked >= self._member.size
        if is_end and (self._unpacked, self._crc) != (self._member.size, self._member.crc):
            raise DamagedArchive("a member is not what the directory says")
        return data

    def close(self) -> None:
        """Done."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _packed(self) -> bytes:
        assert self._fd is not None  # noqa: S101 (between open and close)
        data = os.pread(self._fd, min(PIECE_BYTES, self._end - self._at), self._at)
        self._at += len(data)
        return data

    def _inflated(self) -> bytes:
        inflator = self._inflator
        while not inflator.eof:
            packed = inflator.unconsumed_tail or self._packed()
            data: bytes = inflator.decompress(packed, PIECE_BYTES)
            if data or not packed:
                return data
        return b""


@define(eq=False)
class Tables:
    """The members of the archives that were asked for last, so that each is read once."""

    most: int = CACHED_MEMBERS
    _tables: OrderedDict[str, Table] = field(factory=OrderedDict)
    _count: int = 0

    def get(self, sha256: str) -> Table | None:
        """The members of the archive with this digest, if they are remembered."""
        table = self._tables.get(sha256)
        if table is not None:
            self._tables.move_to_end(sha256)
        return table

    def put(self, sha256: str, table: Table) -> None:
        """Remember them, and forget the oldest when they become too many."""
        if sha256 not in self._tables:
            self._tables[sha256] = table
            self._count += len(table)
        while self._count > self.most and len(self._tables) > 1:
            _, oldest = self._tables.popitem(last=False)
            self._count -= len(oldest)


def member(table: Table, name: str) -> Member:
    """A member by its name; raises NotFound."""
    found = table.get(name)
    if found is None:
        raise NotFound(f"there is no {name!r} in this archive")
    return found
