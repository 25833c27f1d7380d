"""Pages of the log as they are served: compressed in what the follower takes, read back whole."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_twisted
import zstandard

from cluster.protocol import decode_tail
from cluster.web.tail import COMPRESS_FROM_BYTES, asked, packed
from tests.fake_primary import FakePrimary, note
from tests.fakes import LOG, user_set
from tests.test_follower import following, log_of

DECODED: dict[str | None, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "zstd": lambda body: zstandard.ZstdDecompressor().decompressobj().decompress(body),
    None: bytes,
}
NAMES = [f"user-{number}" for number in range(40)]


@pytest.mark.parametrize("encoding", DECODED)
def test_a_page_can_be_read_back(encoding: str | None) -> None:
    """A page is what it was after its encoding, is named by it, and is smaller for it."""
    raw = log_of(*NAMES).root_entries(len(NAMES) + 1)
    reply = packed(bytes(32), raw, note(raw), encoding).reply()
    assert reply.headers.get("Content-Encoding") == encoding
    page = decode_tail(DECODED[encoding](reply.body))
    assert (list(page.entries), page.checkpoint) == (raw, note(raw))
    plain = sum(len(one) + 1 for one in raw) + 1 + len(note(raw))
    assert (len(reply.body) < plain // 2) == (encoding is not None)


@pytest.mark.parametrize("encoding", DECODED)
def test_small_pages_stay_as_they_are(encoding: str | None) -> None:
    """What is smaller than a packet is not worth the work, whatever is asked for."""
    raw = [b"x" * (COMPRESS_FROM_BYTES - 4)]
    for size, compressed in ((0, False), (1, True)):
        reply = packed(bytes(32), [raw[0] + b"x" * size], b"n", encoding).reply()
        said = reply.headers.get("Content-Encoding")
        assert said == (encoding if compressed else None)


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("gzip", "gzip"), ("zstd", "zstd"), ("gzip, zstd", "zstd"), ("br", None), (None, None)],
)
def test_the_follower_chooses(accepted: str | None, encoding: str | None) -> None:
    """A follower gets what it takes: zstd before gzip, and nothing it did not name."""
    args = {b"log": [LOG.encode()], b"from": [b"0"], b"root": [b""], b"wait": [b"0"]}
    request: Any = SimpleNamespace(args=args, header=lambda name: accepted)
    assert asked(cast(Any, request), LOG).encoding == encoding


@pytest.mark.parametrize("encoding", DECODED)
@pytest_twisted.ensureDeferred
async def test_a_replica_reads_what_is_served(tmp_path: Path, encoding: str | None) -> None:
    """A real follower takes a page in each encoding as the primary makes it."""

    def served(primary: FakePrimary, request: Any) -> None:
        start = int(request.args[b"from"][0])
        raw = [entry.raw for entry in primary.log[start:]]
        signed = note(primary.root_entries(start) + raw)
        reply = packed(bytes(32), raw, signed, encoding).reply()
        for name, value in reply.headers.items():
            request.setHeader(name, value)
        primary.send_body(request, reply.body, reply.content_type)

    primary = log_of(*NAMES)
    async with following(tmp_path, primary) as it:
        await it.in_sync()
        primary.turn(served)
        primary.record(*(user_set(f"late-{number}") for number in range(40)))
        await it.reach(len(NAMES) + 41)
        assert it.facts()[2] == [one.raw for one in primary.log]
