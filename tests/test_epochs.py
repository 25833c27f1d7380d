"""Epochs: only a node of the cluster can take a log over, at one place of one history."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from attrs import evolve
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cluster.errors import LogError
from cluster.log.changes import Change, Entry, Kind, encode
from cluster.log.checkpoint import Checkpoint, LogSigner
from cluster.log.epochs import Owner, Start, Trust, next_owner, owner_after, start_payload
from cluster.log.merkle import Frontier, leaf_hash
from cluster.protocol import TailPage
from cluster.state.database import writing
from replica.taking import take
from tests.fakes import KEY, LOG, SIGNER, START, TIME, TRUST, engine, entries, user_set

NODE = "0f3c7d2e-0000-4000-8000-000000000002"
NEW = LogSigner(SIGNER.name, Ed25519PrivateKey.generate())
NEW_KEY = base64.b64encode(NEW.key.public).decode()
FIRST = Owner(1, KEY)
BEGINNING = entries([START, user_set("ann")])


def frontier(of: list[Entry]) -> Frontier:
    return Frontier().extended(leaf_hash(entry.raw) for entry in of)


def start(before: Frontier, trust: Trust = TRUST, **other: Any) -> Entry:
    """The entry that starts epoch 2 behind a log."""
    payload = {**start_payload(trust, 2, NEW_KEY, NODE, before), **other}
    change = Change(Kind.EPOCH_STARTED, payload)
    return encode(change, serial=before.size + 1, epoch=2, time=TIME, actor="+promote")


def test_next_owner() -> None:
    """Whoever knows the cluster's secret may own the log from where it says."""
    before = frontier(BEGINNING)
    assert next_owner(TRUST, FIRST, start(before), before) == Owner(2, NEW_KEY)
    assert owner_after(TRUST, FIRST, [start(before)], before) == Owner(2, NEW_KEY)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda before: start(before, evolve(TRUST, secret=b"another secret")),
        lambda before: start(before, key=KEY),
        lambda before: start(before, node="somebody else"),
        lambda before: start(before, log="another log"),
        lambda before: start(before, proof=""),
        lambda before: evolve(start(before), epoch=3),
        lambda before: evolve(start(before), epoch=1),
        lambda before: evolve(start(frontier(BEGINNING[:1])), serial=before.size + 1),
    ],
)
def test_nobody_else(wrong: Any) -> None:
    """Another secret, key, node, log, epoch, or place in the history: refused."""
    before = frontier(BEGINNING)
    with pytest.raises(LogError):
        next_owner(TRUST, FIRST, wrong(before), before)


def test_entries_are_of_their_owners_epoch() -> None:
    """An entry of the old epoch behind the new one's beginning, or of the new one before it."""
    before = frontier(BEGINNING)
    late = encode(user_set("bob"), serial=4, epoch=1, time=TIME, actor="root")
    with pytest.raises(LogError, match="epoch 1"):
        owner_after(TRUST, FIRST, [start(before), late], before)
    early = encode(user_set("bob"), serial=3, epoch=2, time=TIME, actor="root")
    with pytest.raises(LogError, match="epoch 2"):
        owner_after(TRUST, FIRST, [early], before)


def test_a_start_survives_the_wire() -> None:
    """What a node lists of an epoch's beginning can be checked by another, and not be changed."""
    before = frontier(BEGINNING)
    payload = start(before).payload
    made = Start(2, before.size + 1, NEW_KEY, NODE, payload["proof"], before.root)
    again = Start.from_json(made.to_json())
    assert again == made
    assert again.is_proven(TRUST)
    for change in ({"epoch": 3}, {"serial": 2}, {"key": KEY}, {"node": "x"}, {"root": bytes(32)}):
        assert not evolve(again, **change).is_proven(TRUST)
    for broken in ({}, {**made.to_json(), "serial": "x"}, {**made.to_json(), "root": 5}):
        with pytest.raises(LogError):
            Start.from_json(broken)


def signed(signer: LogSigner, page: list[Entry], before: list[Entry]) -> TailPage:
    after = frontier([*before, *page])
    note = signer.sign(Checkpoint(signer.name, after.size, after.root))
    return TailPage([entry.raw for entry in page], note)


def test_following_into_a_new_epoch() -> None:
    """A page with the beginning of an epoch is signed by its owner; later pages too, and no more
    by the owner before."""
    log = [*BEGINNING, start(frontier(BEGINNING))]
    after = encode(user_set("bob"), serial=4, epoch=2, time=TIME, actor="root")
    with engine() as of:
        with writing(of) as connection:
            taken = take(connection, TRUST, Frontier(), signed(SIGNER, BEGINNING, []))
            with pytest.raises(LogError, match="sign"):
                take(connection, TRUST, taken.frontier, signed(SIGNER, log[2:], BEGINNING))
            taken = take(connection, TRUST, taken.frontier, signed(NEW, log[2:], BEGINNING))
            assert taken.head.epoch == 2
            for signer, page in ((SIGNER, [after]), (SIGNER, [])):
                with pytest.raises(LogError):
                    take(connection, TRUST, taken.frontier, signed(signer, page, log))
            taken = take(connection, TRUST, taken.frontier, signed(NEW, [after], log))
        assert taken.head.serial == 4


def test_an_owner_vouches_for_what_was_before() -> None:
    """A replica far behind takes old entries from the new owner once its epoch is proven, and
    from nobody whose epoch is not."""
    before = frontier(BEGINNING)
    later = Start(2, 3, NEW_KEY, NODE, start(before).payload["proof"], before.root)
    page = signed(NEW, BEGINNING, [])
    with engine() as of, writing(of) as connection:
        with pytest.raises(LogError):
            take(connection, TRUST, Frontier(), page)
        assert take(connection, TRUST, Frontier(), page, [later]).head.serial == 2


def test_log() -> None:
    """The fixtures agree: the first epoch is the log's identity."""
    assert (TRUST.log, TRUST.key) == (LOG, KEY)
