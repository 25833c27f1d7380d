"""Signed checkpoints: only the owner's whole, unchanged note is believed."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import LogError
from cluster.log.checkpoint import Checkpoint, LogKey, LogSigner
from tests.fakes import PRIVATE

SIGNER = LogSigner("pymirror.example/log", PRIVATE)
CHECKPOINT = Checkpoint(SIGNER.name, 1042, bytes(range(32)))
# Ed25519 is deterministic: the same key signs the same text with the same bytes.
GOLDEN = """\
pymirror.example/log
1042
AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=

— pymirror.example/log \
zmqHoW+WsdUISF3a6Wuo+lOHBrukqsD+uHKbYi+2xn41RPdXArbF6Nlpv9Y8i5/g\
lznrxMHFh9P34u6kZjNT675UKg4=
"""


def test_golden_note() -> None:
    """A note with a fixed key is this one, byte for byte."""
    assert SIGNER.sign(CHECKPOINT).decode() == GOLDEN


@given(st.integers(0, 10**18), st.binary(min_size=32, max_size=32))
def test_round_trip(size: int, root: bytes) -> None:
    """What was signed is what is opened."""
    checkpoint = Checkpoint("some.example/log", size, root)
    signer = LogSigner("some.example/log", PRIVATE)
    assert signer.key.open(signer.sign(checkpoint)) == checkpoint


def test_every_corrupt_byte_is_refused() -> None:
    """A note with any one byte changed to any of a few others is not believed."""
    note = SIGNER.sign(CHECKPOINT)
    for at, byte in enumerate(note):
        for other in {byte ^ 1, byte ^ 2, byte ^ 0x20, byte ^ 0x80, 0, 10, 32, 65} - {byte}:
            bad = note[:at] + bytes([other]) + note[at + 1 :]
            with pytest.raises(LogError):
                SIGNER.key.open(bad)


def test_every_cut_and_every_tail_is_refused() -> None:
    """A note that lost its end, or has one too many, is not believed."""
    note = SIGNER.sign(CHECKPOINT)
    for end in range(len(note)):
        with pytest.raises(LogError):
            SIGNER.key.open(note[:end])
    for tail in (b"\n", b"x", note, b"\xff"):
        with pytest.raises(LogError):
            SIGNER.key.open(note + tail)


def test_another_key_is_refused() -> None:
    """A note signed by another key with the same name is not believed."""
    stranger = LogSigner(SIGNER.name, Ed25519PrivateKey.from_private_bytes(bytes(32)))
    with pytest.raises(LogError, match="not signed by"):
        SIGNER.key.open(stranger.sign(CHECKPOINT))


def test_another_key_that_claims_our_hash_is_refused() -> None:
    """The key hash in a signature line is a hint, not a proof."""
    stranger = Ed25519PrivateKey.from_private_bytes(bytes(32))
    raw = SIGNER.key.key_hash + stranger.sign(CHECKPOINT.text)
    line = f"\n— {SIGNER.name} {base64.b64encode(raw).decode()}\n"
    with pytest.raises(LogError, match="signature is wrong"):
        SIGNER.key.open(CHECKPOINT.text + line.encode())


def test_another_name_is_refused() -> None:
    """The same key under another name is another signer."""
    other = LogKey("other.example/log", SIGNER.key.public)
    with pytest.raises(LogError, match="not signed by"):
        other.open(SIGNER.sign(CHECKPOINT))


def test_other_signatures_are_ignored() -> None:
    """A note that a witness signed as well is still the owner's (C2SP signed-note)."""
    note = SIGNER.sign(CHECKPOINT)
    text, line = note.split(b"\n\n")
    witness = LogSigner("witness.example", Ed25519PrivateKey.from_private_bytes(bytes(32)))
    other = witness.sign(CHECKPOINT).split(b"\n\n")[1]
    assert SIGNER.key.open(text + b"\n\n" + other + line) == CHECKPOINT


@given(st.binary(max_size=400))
def test_garbage_is_refused(garbage: bytes) -> None:
    """Any other bytes raise LogError and nothing else."""
    with pytest.raises(LogError):
        SIGNER.key.open(garbage)


def test_a_short_signature_is_refused() -> None:
    """A signature of the wrong length is wrong, not a crash."""
    line = f"\n— {SIGNER.name} {base64.b64encode(SIGNER.key.key_hash + b'12').decode()}\n"
    with pytest.raises(LogError):
        SIGNER.key.open(CHECKPOINT.text + line.encode())
