"""What strangers may send: odd headers, pages that break off, archives made to hurt."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any, cast

import pytest
from attrs import define, field
from klein import Klein
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.resource import Resource

from cluster.errors import InvalidRequest, UpstreamError
from cluster.upstream.client import _decoder, _Reader
from cluster.web.replies import text_reply
from cluster.web.request import NodeRequest, NodeSite, StreamHandler
from cluster.web.routes import add_common_routes
from primary.tarsearch import find_file
from primary.uploadchecks import inspect
from tests.builders import sdist

HEAD = b"Host: a.example\r\nConnection: close\r\n"


@define
class Node:
    """Answers everything from memory with a header it was sent."""

    clock: Clock = field(factory=Clock)

    def common_headers(self) -> dict[bytes, bytes]:
        return {}

    def stream_handler(self, request: NodeRequest) -> StreamHandler | None:
        return None

    def serve_hot(self, request: NodeRequest) -> bool:
        request.answer(text_reply(repr(request.header("If-None-Match"))))
        return True


def answer_to(request: bytes) -> bytes:
    """What a node sends for these bytes."""
    channel: Any = NodeSite(Resource(), cast(Any, Node())).buildProtocol(None)
    transport = StringTransport()
    channel.makeConnection(transport)
    channel.dataReceived(request)
    return bytes(transport.value())


def test_a_header_that_is_not_utf8() -> None:
    """Any bytes in a header are answered, not met with a closed connection and a traceback."""
    answer = answer_to(b"GET / HTTP/1.1\r\n" + HEAD + b'If-None-Match: "\xff"\r\n\r\n')
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_no_continue_after_a_refusal() -> None:
    """A refused client is not told to send its body after the refusal."""
    expect = b"Content-Length: 9999999\r\nExpect: 100-continue\r\n\r\n"
    answer = answer_to(b"POST /x HTTP/1.1\r\n" + HEAD + expect)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer


def test_double_slashes_are_not_redirected() -> None:
    """Werkzeug's redirect would name this node's port to clients of a front."""
    app = Klein()
    add_common_routes(app)
    matched = app.url_map.bind("a.example").match("/root/pypi/+simple/x/", method="GET")
    assert matched[1]["project"] == "x"
    with pytest.raises(Exception, match="404"):
        app.url_map.bind("a.example").match("/root//pypi/+simple/x/", method="GET")


@pytest.mark.parametrize("end", [ResponseDone(), PotentialDataLoss()])
@pytest.mark.parametrize("cut", [0, 1, 8, 20])
def test_a_compressed_page_that_breaks_off(end: Exception, cut: int) -> None:
    """Half a list of files is an error: read as a whole one it would remove the other half."""
    page = b"".join(b"<a href='x-%d.tar.gz'>x-%d.tar.gz</a>" % (i, i * i) for i in range(200))
    packed, got = gzip.compress(page), io.BytesIO()
    reader = _Reader(got, _decoder("gzip", "http://a.example/"), 1 << 20)
    reader.dataReceived(packed[: len(packed) - cut])
    reader.connectionLost(Failure(end))
    results: list[Any] = []
    reader.done.addBoth(results.append)
    if cut:
        assert results[0].check(UpstreamError)
    else:
        assert results == [None]
        assert got.getvalue() == page


def tar_gz(path: Path, *blocks: bytes) -> Path:
    """A .tar.gz of raw blocks."""
    path.write_bytes(gzip.compress(b"".join(b + bytes(-len(b) % 512) for b in blocks), 1))
    return path


def header(name: str, kind: bytes, size: int) -> bytes:
    """A raw tar header."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize("kind", [b"x", b"g", b"X", b"L", b"K", b"S"])
def test_a_giant_extension_header(tmp_path: Path, kind: bytes) -> None:
    """Headers that tarfile would hold whole and search for hours are refused unread."""
    path = tar_gz(tmp_path / "x.tar.gz", header("x", kind, 600 << 20), b"1" * (4 << 20))
    with pytest.raises(InvalidRequest):
        find_file(path, lambda name: True, 100)


@pytest.mark.parametrize(
    "record", [b"1" * 900_000, b"20 size=-50000000000\n", b"0 path=x\n", b"-5 "]
)
def test_a_broken_extension_header(tmp_path: Path, record: bytes) -> None:
    """Records that lie about their length are refused, at once."""
    path = tar_gz(tmp_path / "x.tar.gz", header("x", b"x", len(record)), record)
    with pytest.raises((InvalidRequest, ValueError)):
        find_file(path, lambda name: True, 100)


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_ordinary_archives(tmp_path: Path, kind: int) -> None:
    """A file is found behind others, folders and links, by names of any usual length."""
    name = f"{'p' * (200 if kind != tarfile.USTAR_FORMAT else 90)}-1.0/PKG-INFO"
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz", format=kind) as archive:
        for other, type in (("d", b"5"), ("l", b"2"), ("é" * 45, b"0"), ("f", b"0")):
            info = tarfile.TarInfo(other)
            info.type, info.linkname = type, "f" * (150 if kind == tarfile.GNU_FORMAT else 5)
            info.size, info.mtime = 1500 if type == b"0" else 0, 12
            archive.addfile(info, io.BytesIO(bytes(info.size)))
        info = tarfile.TarInfo(name)
        info.size = 5
        archive.addfile(info, io.BytesIO(b"hello"))
    assert find_file(tmp_path / "x.tar.gz", lambda n: n == name, 100) == b"hello"
    assert find_file(tmp_path / "x.tar.gz", lambda n: n == "other", 100) is None


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_metadata_that_unpacks_without_bound(tmp_path: Path, packing: int) -> None:
    """A kilobyte of bzip2 or LZMA unpacks to gigabytes in one step, so neither is read."""
    path = tmp_path / "w.whl"
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr(
            "w-1.0.dist-info/METADATA", b"Metadata-Version: 2.1\nName: w\nVersion: 1.0\n"
        )
    fields = {"name": ["w"], "version": ["1.0"]}
    with pytest.raises(InvalidRequest, match="packed"):
        inspect(path, "w-1.0-py3-none-any.whl", fields)


@pytest.mark.parametrize("build", ["1<b>", "1?x", "1#x", "1 x", "1\u00e9"])
def test_odd_characters_in_an_uploaded_name(tmp_path: Path, build: str) -> None:
    """Build tags may hold anything for `packaging`; names here are plain."""
    with pytest.raises(InvalidRequest, match="cannot be the name"):
        inspect(tmp_path / "none", f"w-1.0-{build}-py3-none-any.whl", {})


def test_an_sdist(tmp_path: Path) -> None:
    """The search still finds the PKG-INFO of what build tools make."""
    built = sdist("some.name", "1.0")
    path = tmp_path / built.filename
    path.write_bytes(built.data)
    found = inspect(path, built.filename, {"name": ["some.name"], "version": ["1.0"]})
    assert (found.project, found.version) == ("some-name", "1.0")


def test_a_version_of_thousands_of_digits(tmp_path: Path) -> None:
    """Python refuses to convert it with another error than `packaging` promises."""
    built = sdist("w", "1.0")
    path = tmp_path / built.filename
    path.write_bytes(built.data)
    with pytest.raises(InvalidRequest, match="invalid version"):
        inspect(path, built.filename, {"name": ["w"], "version": ["1" * 5000]})
