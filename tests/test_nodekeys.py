"""Node keys, join tokens, admission, and polls that are bounded."""

from __future__ import annotations

import pytest
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from cluster.auth.jointokens import JoinRequest, JoinToken, invitation, new_invitation, parse
from cluster.auth.nodekeys import Admission, NodeKey, public_key, read_key
from cluster.auth.nodes import NodeSecret
from cluster.errors import (
    AuthenticationRequired,
    InvalidRequest,
    LoopDetected,
    TooManyRequests,
)
from cluster.log import notes
from cluster.log.changes import Change, Kind, encode
from cluster.state import nodes
from cluster.state.apply import apply
from cluster.state.rows import Touched
from cluster.web.polls import Polls
from replica.following import Following, State, Unreachable, applied, delay_seconds, failed
from replica.via import check_chain, nodes_of
from tests.fakes import NOW, as_clock, database, engine, entries, position, user_set

NODE = "6a0e6d0e-2f5f-4f57-9f4d-5f0f4b7c9d11"
OTHER = "0b0e6d0e-2f5f-4f57-9f4d-5f0f4b7c9d11"
SECRET = b"the secret of the tests' cluster"
KEY = NodeKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
STRANGER = NodeKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
ASKED = JoinRequest(NODE, KEY.public, "https://replica.example", "n" * 32)


def admission(*known: nodes.KnownNode, require_keys: bool = False) -> Admission:
    """What decides, knowing these nodes."""
    with database() as own:
        made = Admission(own, lambda: SECRET, lambda: NOW, require_keys)
    made.take({one.uuid: one for one in known})
    return made


def known(key: NodeKey | None = KEY, *, revoked: bool = False) -> nodes.KnownNode:
    """The node of these tests."""
    return nodes.KnownNode(NODE, key.public if key else None, None, "invite", revoked, 7)


def test_a_signed_request_is_admitted() -> None:
    """Path escapes and the query may differ; method and path may not, nor who signs."""
    decides = admission(known())
    token = KEY.token(NODE, "GET", "/+log/tail?from=1", NOW)
    for path in ("/+log/tail", "/%2Blog/tail?from=2", "/+log/t%61il"):
        assert decides.verify(token, "GET", path) == NODE
    for method, path in (("POST", "/+log/tail"), ("GET", "/+log/epochs"), ("GET", "/+log/tail/")):
        with pytest.raises(AuthenticationRequired, match="for this request"):
            decides.verify(token, method, path)
    with pytest.raises(AuthenticationRequired, match="for this request"):
        decides.verify(STRANGER.token(NODE, "GET", "/", NOW), "GET", "/")
    with pytest.raises(AuthenticationRequired, match="is known here"):
        decides.verify(KEY.token(OTHER, "GET", "/", NOW), "GET", "/")


def test_the_owner_of_the_log_is_admitted() -> None:
    """A primary that never joined signs by the log's key, for one request as everybody; no other
    key counts, not that of an owner before, and not for a node that has its own or was revoked."""
    decides = admission(known(), known_other := nodes.KnownNode(OTHER, None, None, None, True, 8),
                        require_keys=True)  # fmt: skip
    primary = "5c0e6d0e-2f5f-4f57-9f4d-5f0f4b7c9d11"
    by_log = STRANGER.token(primary, "GET", "/+node/file/1", NOW)
    with pytest.raises(AuthenticationRequired, match="is known here"):
        decides.verify(by_log, "GET", "/+node/file/1")
    decides.take({NODE: known(), OTHER: known_other}, STRANGER.public)
    assert decides.verify(by_log, "GET", "/+node/file/1") == primary
    for method, path in (("POST", "/+node/file/1"), ("GET", "/+node/file/2")):
        with pytest.raises(AuthenticationRequired, match="for this request"):
            decides.verify(by_log, method, path)
    for node, why in ((NODE, "not signed by the key"), (OTHER, "was revoked")):
        with pytest.raises(AuthenticationRequired, match=why):
            decides.verify(STRANGER.token(node, "GET", "/", NOW), "GET", "/")
    decides.take({}, NodeKey(Ed25519PrivateKey.generate()).public)
    with pytest.raises(AuthenticationRequired, match="not signed by the key"):
        decides.verify(by_log, "GET", "/+node/file/1")


@pytest_twisted.ensureDeferred
async def test_a_later_epoch_has_another_owner() -> None:
    """Whose key counts is what the log says now."""
    with database() as own:
        for number, key in enumerate((KEY, STRANGER), start=1):
            start = Change(Kind.EPOCH_STARTED, {"log": "a log", "key": key.public})
            entry = encode(start, serial=number, epoch=number, time="", actor="+promote")
            with own.engine.begin() as connection:
                apply(connection, entry, Touched())
            decides = Admission(own, lambda: SECRET, lambda: NOW)
            await decides.reload()
            assert decides.verify(key.token(NODE, "GET", "/", NOW), "GET", "/") == NODE


def test_who_signs_by_the_key_of_the_log() -> None:
    """Only what goes to nodes that follow, and only who has no key of its own."""
    primary = NodeSecret(SECRET, lambda: NOW, owner=STRANGER)
    decides = admission(require_keys=True)
    decides.take({}, STRANGER.public)
    token = primary.token_for_followers(NODE, "GET", "/x")
    assert decides.verify(token, "GET", "/x") == NODE
    plain = NodeSecret(SECRET, lambda: NOW)
    assert primary.token(NODE, "GET", "/x") == plain.token(NODE, "GET", "/x")
    assert plain.token_for_followers(NODE, "GET", "/x") == plain.token(NODE)
    joined = NodeSecret(SECRET, lambda: NOW, key=KEY, owner=STRANGER)
    assert joined.token_for_followers(NODE, "GET", "/x") == joined.token(NODE, "GET", "/x")


@pytest.mark.parametrize("off", [-301, 301])
def test_a_signed_request_expires(off: int) -> None:
    """Five minutes to either side of our clock, then no more."""
    decides = admission(known())
    assert decides.verify(KEY.token(NODE, "GET", "/", NOW + off / 1.01), "GET", "/") == NODE
    with pytest.raises(AuthenticationRequired, match="expired"):
        decides.verify(KEY.token(NODE, "GET", "/", NOW + off), "GET", "/")


@settings(deadline=None)
@given(st.text(max_size=200))
def test_garbage_is_refused(text: str) -> None:
    """Whatever stands in the header, the answer is 401."""
    for token in (text, f"k1.{text}", f"k1.{NODE}.{text}.x"):
        with pytest.raises(AuthenticationRequired):
            admission(known()).verify(token, "GET", "/")


def test_revocation_and_required_keys() -> None:
    """A revoked uuid is refused by both proofs; with required keys the secret proves nothing."""
    by_secret = NodeSecret(SECRET, lambda: NOW).token(NODE)
    by_key = KEY.token(NODE, "GET", "/", NOW)
    assert admission().verify(by_secret, "GET", "/") == NODE
    for token in (by_secret, by_key):
        with pytest.raises(AuthenticationRequired, match="was revoked"):
            admission(known(revoked=True)).verify(token, "GET", "/")
    with pytest.raises(AuthenticationRequired, match="join-token-file"):
        admission(known(), require_keys=True).verify(by_secret, "GET", "/")
    assert admission(known(), require_keys=True).verify(by_key, "GET", "/") == NODE


def test_a_node_signs_when_it_knows_the_request() -> None:
    """With a key of its own a node proves itself by it, for the corrected clock."""
    own = NodeSecret(SECRET, lambda: NOW - 1_000, offset_seconds=1_000, key=KEY)
    decides = admission(known(), require_keys=True)
    assert decides.verify(own.token(NODE, "GET", "/x"), "GET", "/x") == NODE
    assert own.token(NODE) == NodeSecret(SECRET, lambda: NOW).token(NODE)


def test_changes_are_told_once() -> None:
    """Who waits on behalf of nodes hears of a revocation, and not of what changes nothing."""
    decides, heard = admission(known()), []
    decides.on_change = lambda: heard.append(decides.revoked())
    decides.take({NODE: known()})
    decides.take({NODE: known(revoked=True)})
    assert heard == [[NODE]]
    assert decides.is_revoked(NODE)
    assert not decides.is_revoked(OTHER)


def test_the_state_of_nodes() -> None:
    """A key comes with an invitation; a revocation is final, also for one that never joined."""
    log = entries([
        Change(Kind.NODE_KEY, {"node": NODE, "key": KEY.public, "invite": "a" * 16}),
        Change(Kind.NODE_REVOKED, {"node": NODE}),
        Change(Kind.NODE_KEY, {"node": NODE, "key": STRANGER.public, "invite": "b" * 16}),
        Change(Kind.NODE_REVOKED, {"node": OTHER}),
    ])  # fmt: skip
    with engine() as made, made.begin() as connection:
        for entry in log:
            touched = Touched()
            apply(connection, entry, touched)
            assert touched.indexes
        found = nodes.known(connection)
    assert found[NODE] == nodes.KnownNode(NODE, STRANGER.public, None, "b" * 16, True, 3)
    assert found[OTHER] == nodes.KnownNode(OTHER, None, None, None, True, 4)


def test_keys_in_files(tmp_path: object) -> None:
    """No file is no key; a broken one is told; a key comes back as it was."""
    from pathlib import Path

    path = Path(str(tmp_path)) / "node-key"
    assert read_key(path) is None
    path.write_bytes(KEY.raw())
    restored = read_key(path)
    assert restored is not None
    assert restored.public == KEY.public
    path.write_bytes(b"short")
    with pytest.raises(InvalidRequest, match="join again"):
        read_key(path)
    for text in ("", "!", "QUJD"):
        with pytest.raises(InvalidRequest):
            public_key(text)


def test_join_tokens() -> None:
    """A token survives its text; the primary makes it again from id and end alone."""
    token = new_invitation(bytes(32), 1_800_000_000)
    assert parse(f" {token.text}\n") == token
    assert invitation(bytes(32), token.id, token.ends) == token
    assert invitation(bytes(32), token.id, token.ends + 1).secret != token.secret
    assert invitation(b"\1" * 32, token.id, token.ends).secret != token.secret
    for text in ("", token.text[:-1], token.text.replace("pymjoin", "pym"), f"{token.text}x"):
        with pytest.raises(InvalidRequest):
            parse(text)


def test_the_sealed_secret() -> None:
    """Only who has the token opens the answer, for its own request and this log alone."""
    token, other = JoinToken("a" * 16, 1, b"\1" * 32), JoinToken("a" * 16, 1, b"\2" * 32)
    sealed = ASKED.seal(token, "log", "key", SECRET)
    assert ASKED.open(token, "log", "key", sealed) == SECRET
    elsewhere = JoinRequest(OTHER, KEY.public, "", "n" * 32)
    for who, by, log in ((ASKED, other, "log"), (ASKED, token, "x"), (elsewhere, token, "log")):
        with pytest.raises(AuthenticationRequired):
            who.open(by, log, "key", sealed)
    for broken in ("", "x", sealed[:-4]):
        with pytest.raises(AuthenticationRequired):
            ASKED.open(token, "log", "key", broken)
    assert ASKED.proof(token) != ASKED.proof(other)
    assert ASKED.proof(token) != elsewhere.proof(token)


@pytest_twisted.ensureDeferred
async def test_polls_are_bounded_per_node() -> None:
    """The third poll of a node ends its oldest; polls of others go on; a revoked node's end."""
    clock = Clock()
    polls = Polls(position(as_clock(clock)))

    def wait(node: str) -> Deferred[bool]:
        return Deferred.fromCoroutine(polls.wait(node, 1, 25.0))

    first, second, other, third = wait(NODE), wait(NODE), wait(OTHER), wait(NODE)
    assert [d.called for d in (first, second, other, third)] == [True, False, False, False]
    polls.end(lambda node: node == NODE)
    assert [d.called for d in (second, other, third)] == [True, False, True]
    clock.advance(25)
    assert other.called
    assert polls.count == 0
    for done in (first, second, other, third):
        await done


@pytest_twisted.ensureDeferred
async def test_polls_are_bounded_in_all() -> None:
    """Too many pollers get 429; one that hangs up makes room, and hears of it as such."""
    polls = Polls(position(as_clock(Clock())), most=1)
    gone = Deferred.fromCoroutine(polls.wait(NODE, 1, 25.0))
    with pytest.raises(TooManyRequests):
        await polls.wait(OTHER, 1, 25.0)
    gone.cancel()
    with pytest.raises(CancelledError):
        await gone
    assert polls.count == 0
    polls.stop()
    await polls.wait(OTHER, 1, 25.0)  # returns at once


def test_chains() -> None:
    """A node in its own chain, or too far from the primary, is told what to do."""
    assert nodes_of(" a, b,,") == ("a", "b")
    check_chain(["b"] * 7, "a")
    with pytest.raises(LoopDetected, match="point one of them at the primary"):
        check_chain(["b", "a"], "a")
    with pytest.raises(LoopDetected, match="nearer"):
        check_chain(["b"] * 8, "a")


def test_retry_after_is_obeyed_and_bounded() -> None:
    """The wait that a node asks for counts, up to a minute, until something else happens."""
    import random

    chance = random.Random(1)
    before = Following()
    asked = failed(before, Unreachable("later", 30.0), NOW)
    assert delay_seconds(asked, chance) == 30.0
    assert delay_seconds(failed(before, Unreachable("later", 9e9), NOW), chance) == 60.0
    assert delay_seconds(failed(asked, Unreachable("no answer"), NOW), chance) <= 10.0
    assert applied(asked, 1, 1, NOW).retry_after == 0.0
    assert failed(before, LoopDetected("ring"), NOW).state is State.LOOP


def test_kept_notes() -> None:
    """Every late note is kept, of older ones the last of each stretch; pages end at one."""
    with engine() as made, made.begin() as connection:
        for size in range(1, 3_001):
            notes.keep(connection, size - 1, size, b"%d" % size)
        assert notes.at(connection, 3_000) == b"3000"
        assert notes.at(connection, 2_500) == b"2500"
        assert notes.best_end(connection, 2_400, 2_455, 3_000) == 2_455
        early = notes.best_end(connection, 0, 1_000, 3_000)
        assert early is not None
        assert 900 < early <= 1_000
        gaps: list[int] = []
        at = 0
        while (end := notes.best_end(connection, at, at + 1, 3_000)) is not None:
            gaps, at = [*gaps, end - at], end
        assert max(gaps) <= notes.STRETCH_ENTRIES
        assert len(gaps) < 1_100 + 25
        notes.keep(connection, 1_500, 1_501, b"another history")
        assert notes.best_end(connection, 1_501, 3_000, 3_000) is None


def test_no_user_is_a_node() -> None:
    """Entries of other kinds leave the table of nodes alone."""
    with engine() as made, made.begin() as connection:
        apply(connection, entries([user_set("ann")])[0], Touched())
        assert nodes.known(connection) == {}
