"""Snapshots: a signed manifest, and chunks of the log's leaf hashes and of the state's rows (pure).

A manifest is one line of canonical JSON, an empty line, and a signature line as signed notes
have it; it names every chunk by its SHA-256, so nothing that the log's owner did not sign is
loaded. Entries are not part of a snapshot: who starts from one has the tree, not the past.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import orjson
import zstandard
from attrs import field, frozen
from attrs.validators import ge, in_, matches_re
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cluster.errors import LogError, UnknownFormat
from cluster.log.checkpoint import LogKey, LogSigner
from cluster.log.epochs import Start, Trust
from cluster.log.merkle import HASH_SIZE, Frontier

FORMAT: Final = 1
CHUNK_BYTES: Final = 4 << 20
"""Where a chunk ends, before compression."""
CHUNK_LIMIT: Final = 24 << 20
"""The largest chunk that is accepted, before or after decompression: a block of rows is never
cut, and one row can be large."""
MANIFEST_LIMIT: Final = 16 << 20
LEAVES: Final = "leaves"
"""The name of chunks that hold the log's leaf hashes, 32 bytes each; all others hold rows."""

_DOMAIN = b"pymirror snapshot\n"  # a signature of this is never one of a checkpoint
_SIGNATURE = re.compile(rb"\xe2\x80\x94 (?P<name>[^\s+]+) (?P<value>[A-Za-z0-9+/=]+)\n")
_LEVEL = 3


@frozen
class Chunk:
    """A piece of a snapshot: `size` bytes as stored, `rows` rows of `table` (or hashes)."""

    table: str
    rows: int = field(validator=ge(0))
    size: int = field(validator=[ge(1)])
    sha256: str = field(validator=matches_re("[0-9a-f]{64}"))


@frozen
class Manifest:
    """What a snapshot is of, and what it consists of.

    `serial` and `root` are the log's at which it was read, `time` its last entry's; `state` is
    the digest of all rows (`cluster.state.rowstream`) and `schema` the version of their tables;
    `starts` prove who owns the log, and with that whose signature counts.
    """

    log: str
    epoch: int = field(validator=ge(1))
    serial: int = field(validator=ge(1))
    root: bytes
    frontier: Frontier
    time: str | None
    schema: int
    state: str
    starts: Sequence[Start]
    chunks: Sequence[Chunk]
    format: int = field(default=FORMAT, validator=in_([FORMAT]))

    @property
    def size(self) -> int:
        """Bytes of all chunks."""
        return sum(chunk.size for chunk in self.chunks)

    @property
    def rows(self) -> int:
        """Rows of the state."""
        return sum(chunk.rows for chunk in self.chunks if chunk.table != LEAVES)

    def encode(self) -> bytes:
        """The bytes that are signed, without the line's end."""
        document = {
            "format": self.format, "log": self.log, "epoch": self.epoch, "serial": self.serial,
            "root": _text(self.root), "frontier": [_text(h) for h in self.frontier.hashes],
            "time": self.time, "schema": self.schema, "state": self.state,
            "starts": [start.to_json() for start in self.starts],
            "chunks": [[c.table, c.rows, c.size, c.sha256] for c in self.chunks],
        }  # fmt: skip
        return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sign_manifest(manifest: Manifest, signer: LogSigner) -> bytes:
    """The manifest as it is served. Callers sign only what is durable."""
    text = manifest.encode()
    raw = signer.key.key_hash + signer.private.sign(_DOMAIN + text)
    return text + f"\n\n— {signer.name} {_text(raw)}\n".encode()


def open_manifest(raw: bytes, name: str, trust: Trust) -> Manifest:
    """Check who signed a manifest and return it; `name` is that of the log's key.

    Its own `starts` say who owns the log; each is proven under the cluster's secret. Raises
    LogError, and UnknownFormat for news to us.
    """
    text, empty, line = raw[: MANIFEST_LIMIT + 1].partition(b"\n\n")
    match = _SIGNATURE.fullmatch(line) if empty else None
    if match is None or match["name"].decode("utf-8", "replace") != name:
        raise LogError(f"that is not a snapshot's manifest signed by {name}")
    manifest = _decode(text)
    key = LogKey(name, base64.b64decode(_owner(manifest, trust)))
    try:
        signature = base64.b64decode(match["value"], validate=True)
        if _text(signature).encode() != match["value"]:
            raise LogError("the signature of the snapshot's manifest is not canonical")
        if signature[:4] != key.key_hash:
            raise LogError(f"the snapshot's manifest is not signed by {name}'s present key")
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature[4:], _DOMAIN + text)
    except (InvalidSignature, ValueError):
        raise LogError("the signature of the snapshot's manifest is wrong") from None
    return manifest


def _owner(manifest: Manifest, trust: Trust) -> str:
    """The key of the epoch in force; raises LogError when it is not proven."""
    if manifest.log != trust.log:
        raise LogError(f"a snapshot of log {manifest.log}, not of {trust.log}")
    first = manifest.epoch - len(manifest.starts)
    key, serial = trust.key, 1
    for number, start in enumerate(manifest.starts, start=first + 1):
        if start.epoch != number or not serial < start.serial <= manifest.serial:
            raise LogError("the epochs of a snapshot do not follow each other")
        if not start.is_proven(trust):
            raise LogError(f"epoch {number} was not started by a node of this cluster")
        key, serial = start.key, start.serial
    return key


def _decode(text: bytes) -> Manifest:
    try:
        values: Mapping[str, Any] = orjson.loads(text)
        if values["format"] != FORMAT:
            raise UnknownFormat(f"a snapshot of format {values['format']!r}: upgrade this node")
        hashes = tuple(base64.b64decode(h, validate=True) for h in values["frontier"])
        manifest = Manifest(
            log=str(values["log"]), epoch=int(values["epoch"]), serial=int(values["serial"]),
            root=base64.b64decode(values["root"], validate=True),
            frontier=Frontier(int(values["serial"]), hashes), time=values["time"],
            schema=int(values["schema"]), state=str(values["state"]),
            starts=[Start.from_json(start) for start in values["starts"]],
            chunks=[Chunk(*chunk) for chunk in values["chunks"]],
        )  # fmt: skip
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise LogError(f"a snapshot's manifest is malformed: {error!r}") from None
    if manifest.encode() != text:
        raise LogError("a snapshot's manifest is not canonical")
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    if manifest.frontier.root != manifest.root:
        raise LogError("a snapshot's frontier does not have its root")
    leaves = sum(chunk.rows for chunk in manifest.chunks if chunk.table == LEAVES)
    if leaves != manifest.serial:
        raise LogError(f"a snapshot of {manifest.serial} entries has {leaves} leaf hashes")
    if any(chunk.size > CHUNK_LIMIT for chunk in manifest.chunks):
        raise LogError("a chunk of a snapshot is too large")


def pack(table: str, rows: int, raw: bytes) -> tuple[Chunk, bytes]:
    """Compress a piece, and describe it."""
    packed = zstandard.compress(raw, _LEVEL)
    return Chunk(table, rows, len(packed), sha256(packed).hexdigest()), packed


def is_whole(chunk: Chunk, packed: bytes) -> bool:
    """Whether these are the chunk's bytes."""
    return len(packed) == chunk.size and sha256(packed).hexdigest() == chunk.sha256


def unpack(chunk: Chunk, packed: bytes) -> bytes:
    """A chunk's content; raises LogError for other bytes, and for too many of them."""
    if not is_whole(chunk, packed):
        raise LogError("a chunk of a snapshot is not what its manifest says")
    try:
        reader = zstandard.ZstdDecompressor().stream_reader(packed)
        raw = reader.read(CHUNK_LIMIT + 1)
    except zstandard.ZstdError as error:
        raise LogError(f"a chunk of a snapshot does not decompress: {error}") from None
    if len(raw) > CHUNK_LIMIT:
        raise LogError(f"a chunk of a snapshot has more than {CHUNK_LIMIT} bytes")
    return raw


def leaves_of(chunk: Chunk, raw: bytes) -> bytes:
    """The joined leaf hashes that a chunk's content is; raises LogError."""
    if len(raw) != chunk.rows * HASH_SIZE:
        raise LogError("a chunk of leaf hashes has another length than its manifest says")
    return raw
