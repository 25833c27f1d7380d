"""Signed checkpoints: C2SP tlog-checkpoint in a C2SP signed note, Ed25519 (pure).

A checkpoint says: the log of this origin has this size and this Merkle root. The note's text
is three lines (origin, size, base64 root); each signature line is
``— <key name> base64(key hash || signature)``.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import cached_property
from hashlib import sha256

from attrs import field, frozen
from attrs.validators import ge
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cluster.errors import LogError
from cluster.log.merkle import HASH_SIZE

_ED25519 = b"\x01"
_NOTE = re.compile(
    r"(?P<text>(?P<origin>[^\n]+)\n(?P<size>0|[1-9][0-9]{0,18})\n(?P<root>[A-Za-z0-9+/]{43}=)\n)"
    r"\n(?P<signatures>(?:— [^\s+]+ [A-Za-z0-9+/=]+\n)+)"
)
_MAX_NOTE = 16_384


@frozen
class Checkpoint:
    """The log `origin` has `size` entries whose Merkle root is `root` (32 bytes)."""

    origin: str
    size: int = field(validator=ge(0))
    root: bytes

    @property
    def text(self) -> bytes:
        """The bytes that are signed."""
        root = base64.b64encode(self.root).decode()
        return f"{self.origin}\n{self.size}\n{root}\n".encode()


@frozen
class LogKey:
    """The public key that signs a log's checkpoints, with the note's key name."""

    name: str
    public: bytes

    @property
    def key_hash(self) -> bytes:
        """The four bytes that say which key a signature line is by (C2SP signed-note)."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def open(self, note: bytes) -> Checkpoint:
        """Check a note's signature by this key and return its checkpoint; raises LogError."""
        checkpoint, text, signatures = _parse(note)
        for name, raw in signatures:
            if name == self.name and raw[:4] == self.key_hash:
                try:
                    Ed25519PublicKey.from_public_bytes(self.public).verify(raw[4:], text)
                except (InvalidSignature, ValueError):
                    raise LogError("the checkpoint's signature is wrong") from None
                return checkpoint
        raise LogError(f"the checkpoint is not signed by {self.name}")


@frozen(slots=False)
class LogSigner:
    """The private half, held by the node that owns an epoch."""

    name: str
    private: Ed25519PrivateKey

    @cached_property
    def key(self) -> LogKey:
        """The public half."""
        return LogKey(self.name, self.private.public_key().public_bytes_raw())

    def sign(self, checkpoint: Checkpoint) -> bytes:
        """The signed note. Callers sign only what is durable: two heads never disagree."""
        raw = self.key.key_hash + self.private.sign(checkpoint.text)
        line = f"\n— {self.name} {base64.b64encode(raw).decode()}\n"
        return checkpoint.text + line.encode()


def _parse(note: bytes) -> tuple[Checkpoint, bytes, list[tuple[str, bytes]]]:
    try:
        match = _NOTE.fullmatch(note[: _MAX_NOTE + 1].decode())
    except UnicodeDecodeError:
        match = None
    if match is None:
        raise LogError("that is not a signed checkpoint")
    try:
        root = base64.b64decode(match["root"], validate=True)
        signatures = [
            (name, base64.b64decode(value, validate=True))
            for _, name, value in (line.split(" ") for line in match["signatures"].splitlines())
        ]
    except (binascii.Error, ValueError):
        raise LogError("a checkpoint's base64 is broken") from None
    # Decoders ignore the last bits of a text; one checkpoint must have one form only.
    canonical = [f"— {name} {base64.b64encode(raw).decode()}" for name, raw in signatures]
    if canonical != match["signatures"].splitlines():
        raise LogError("a checkpoint's base64 is not canonical")
    if len(root) != HASH_SIZE:
        raise LogError("a checkpoint's root is not a SHA-256")
    return Checkpoint(match["origin"], int(match["size"]), root), match["text"].encode(), signatures
