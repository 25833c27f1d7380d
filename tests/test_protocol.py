"""What nodes say to each other: pages, tokens and proofs, and what is not one of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.auth.nodes import NodeSecret, make_secret
from cluster.errors import AuthenticationRequired, InvalidRequest, LogError
from cluster.log.changes import MAX_ENTRY_BYTES
from cluster.protocol import (
    FRONT_TIMEOUT_SECONDS,
    POLL_TIMEOUT_SECONDS,
    POLL_WAIT_SECONDS,
    TAIL_PAGE_BYTES,
    TAIL_PAGE_LIMIT,
    TOKEN_LIFE_SECONDS,
    TailPage,
    decode_tail,
    encode_tail,
    identity_proof,
    node_token,
    verify_node_token,
)

SECRET = b"a secret of the cluster"
NODE = "8d5f4f8e-0d3c-4b7e-8f5a-0c9f6f1c2b11"
lines = st.binary(min_size=1).filter(lambda raw: b"\n" not in raw)


@given(st.lists(lines), st.binary())
def test_pages_round_trip(entries: list[bytes], checkpoint: bytes) -> None:
    """Entries and checkpoint come back as they were sent."""
    page = decode_tail(encode_tail(TailPage(entries, checkpoint)))
    assert list(page.entries) == entries
    assert page.checkpoint == checkpoint


@given(st.binary())
def test_other_bodies_are_log_errors(body: bytes) -> None:
    """Any bytes are a page, or a LogError: nothing else is raised."""
    try:
        page = decode_tail(body)
    except LogError:
        assert b"\n\n" not in body
        return
    assert encode_tail(TailPage(page.entries, page.checkpoint)) == body


def test_limits_fit_each_other() -> None:
    """The largest group fits into a page's limit, and who waits longer is farther out."""
    assert TAIL_PAGE_BYTES + 256 * (MAX_ENTRY_BYTES + 1) < TAIL_PAGE_LIMIT
    assert POLL_WAIT_SECONDS + 10 < POLL_TIMEOUT_SECONDS < FRONT_TIMEOUT_SECONDS


def test_token_round_trip() -> None:
    """A token names the node it was made for, within its life in both directions."""
    token = node_token(SECRET, NODE, 1_000.7)
    for now in (1_000.0, 1_000 + TOKEN_LIFE_SECONDS, 1_000 - TOKEN_LIFE_SECONDS):
        assert verify_node_token(SECRET, token, now) == NODE


@pytest.mark.parametrize("off", [TOKEN_LIFE_SECONDS + 1, -TOKEN_LIFE_SECONDS - 1, 1e9])
def test_old_tokens(off: float) -> None:
    """A token from another time is refused, with a hint at the clocks."""
    with pytest.raises(AuthenticationRequired, match="clocks"):
        verify_node_token(SECRET, node_token(SECRET, NODE, 1_000), 1_000 + off)


@given(st.data())
def test_changed_tokens(data: st.DataObject) -> None:
    """A token with any character changed, cut or added is refused."""
    token = node_token(SECRET, NODE, 1_000)
    at = data.draw(st.integers(0, len(token) - 1))
    bad = token[:at] + data.draw(st.text(max_size=2)) + token[at + 1 :]
    if bad != token:
        with pytest.raises(AuthenticationRequired):
            verify_node_token(SECRET, bad, 1_000)


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "ä.1.x", "\x00", f"{NODE}.1000."])
def test_garbage_tokens(token: str) -> None:
    """What is not a token is refused, not a crash."""
    with pytest.raises(AuthenticationRequired):
        verify_node_token(SECRET, token, 1_000)


def test_another_secret() -> None:
    """A token made with another cluster's secret is refused."""
    with pytest.raises(AuthenticationRequired, match="secret"):
        verify_node_token(SECRET, node_token(b"other", NODE, 1_000), 1_000)


def test_a_proof_is_no_token() -> None:
    """Nobody can have a primary make a node's token by asking it for its identity."""
    message = f"{NODE}.1000"
    forged = identity_proof(SECRET, NODE, "1000", "")
    with pytest.raises(AuthenticationRequired):
        verify_node_token(SECRET, f"{message}.{forged}", 1_000)


@pytest.mark.parametrize(
    "other", [("n", "log", "k2"), ("n", "log2", "key"), ("n2", "log", "key"), ("n\nlog", "", "key")]
)
def test_proofs_are_of_one_identity(other: tuple[str, str, str]) -> None:
    """A proof is worth nothing for another nonce, log or key."""
    assert identity_proof(SECRET, "n", "log", "key") != identity_proof(SECRET, *other)


def test_a_wrong_clock_still_joins() -> None:
    """With the offset that it learned, a node whose clock is days off makes good tokens."""
    ours = NodeSecret(b" " + SECRET + b"\n", lambda: 500_000.0)
    theirs = NodeSecret(SECRET, lambda: 1_000.0)
    with pytest.raises(AuthenticationRequired):
        theirs.verify(ours.token(NODE))
    ours.offset_seconds = 1_000.0 - 500_000.0
    assert theirs.verify(ours.token(NODE)) == NODE


def test_secrets_are_long_and_differ() -> None:
    """Each new secret has 256 bits of its own."""
    assert len({make_secret() for _ in range(10)}) == 10
    assert len(bytes.fromhex(make_secret().decode().strip())) == 32


@pytest.mark.parametrize("secret", [b"", b"\n", b"short \n"])
def test_a_secret_that_is_none(secret: bytes) -> None:
    """An empty or cut secret file stops the node, instead of letting anybody in."""
    with pytest.raises(InvalidRequest, match="copy it anew"):
        NodeSecret(secret, lambda: 0.0)
