"""Epochs: who owns the log from which serial on, and why others should believe it (pure).

The first epoch's owner proves itself when a node joins. The owner of a later one proves it in
the entry that starts it: an HMAC under the secret that the nodes of a cluster share, over the
new key, the epoch, and the size and root of the log before. So nobody else can take a log over,
and an epoch cannot be moved to another place or another history.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from attrs import frozen

from cluster.errors import LogError
from cluster.log.changes import Entry, Kind
from cluster.log.merkle import Frontier, leaf_hash

MARK = b'"kind":"epoch.started"'
"""What the bytes of an entry that starts an epoch hold; a text in them has its quotes escaped."""


@frozen
class Trust:
    """What a node believes of its log: its uuid, the key (base64 of an Ed25519 public key) of its
    first epoch, and the secret that later owners must know.
    """

    log: str
    key: str
    secret: bytes


@frozen
class Owner:
    """Who signs the log: the epoch's number, and its public key in base64."""

    epoch: int
    key: str


@frozen
class Start:
    """How an epoch after the first began: at `serial`, behind a log with the Merkle root `root`
    (32 bytes), by the node with the uuid `node`.
    """

    epoch: int
    serial: int
    key: str
    node: str
    proof: str
    root: bytes

    def is_proven(self, trust: Trust) -> bool:
        """Whether somebody who knows the cluster's secret has started it there."""
        expected = _proof(trust, self.epoch, self.key, self.node, self.serial - 1, self.root)
        return hmac.compare_digest(self.proof.encode(), expected.encode())

    def to_json(self) -> dict[str, Any]:
        """As `GET /+log/epochs` lists it."""
        return {
            "epoch": self.epoch, "serial": self.serial, "key": self.key, "node": self.node,
            "proof": self.proof, "root": base64.b64encode(self.root).decode(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Start:
        """The reverse of `to_json`; raises LogError."""
        try:
            return cls(
                int(values["epoch"]), int(values["serial"]), str(values["key"]),
                str(values["node"]), str(values["proof"]), base64.b64decode(values["root"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise LogError(f"that is not the start of an epoch: {error!r}") from None


def parting(mine: Sequence[Start], theirs: Sequence[Start]) -> Start | None:
    """Where a log whose epochs began by `theirs` has left one whose epochs began by `mine`, both
    oldest first; None as long as theirs are all mine.

    Up to the size before it the two may agree. Of two starts of one epoch it is the earlier.
    """
    known = {one.epoch: one for one in mine}
    for start in theirs:
        own = known.get(start.epoch, start)
        if start.epoch not in known or own != start:
            return min(own, start, key=lambda one: one.serial)
    return None


def start_payload(
    trust: Trust, epoch: int, key: str, node: str, before: Frontier
) -> Mapping[str, Any]:
    """The payload of `epoch.started` of an epoch after the first; `node` is the owner's uuid."""
    proof = _proof(trust, epoch, key, node, before.size, before.root)
    return {"log": trust.log, "key": key, "node": node, "proof": proof}


def next_owner(trust: Trust, owner: Owner | None, entry: Entry, before: Frontier) -> Owner:
    """Check an entry that starts an epoch; `before` is the log up to it, `owner` who had it.

    Raises LogError for an epoch that does not follow, or that no node of the cluster started.
    """
    payload = entry.payload
    key, said = str(payload.get("key")), str(payload.get("log"))
    if owner is None:
        if (entry.serial, said, key) != (1, trust.log, trust.key):
            raise LogError("the log does not begin with the identity that its owner proved")
        return Owner(entry.epoch, key)
    if entry.serial != before.size + 1 or said != trust.log:
        raise LogError(f"entry {entry.serial} starts an epoch of another log")
    if entry.epoch != owner.epoch + 1:
        raise LogError(f"epoch {entry.epoch} does not follow epoch {owner.epoch}")
    node, proof = str(payload.get("node")), str(payload.get("proof"))
    start = Start(entry.epoch, entry.serial, key, node, proof, before.root)
    if not start.is_proven(trust):
        raise LogError(f"epoch {entry.epoch} was not started by a node of this cluster")
    return Owner(entry.epoch, key)


def owner_after(
    trust: Trust, owner: Owner | None, entries: Sequence[Entry], before: Frontier
) -> Owner:
    """Who owns the log behind some entries, each of which must be of its owner's epoch.

    Raises LogError, also for a log that begins with anything but an epoch.
    """
    for at, entry in enumerate(entries):
        if entry.kind is Kind.EPOCH_STARTED:
            up_to = before.extended(leaf_hash(one.raw) for one in entries[:at])
            owner = next_owner(trust, owner, entry, up_to)
        elif owner is None or entry.epoch != owner.epoch:
            of = "none" if owner is None else owner.epoch
            raise LogError(f"entry {entry.serial} is of epoch {entry.epoch}, we are in {of}")
    if owner is None:
        raise LogError("the log has no epoch")
    return owner


def _proof(trust: Trust, epoch: int, key: str, node: str, size: int, root: bytes) -> str:
    text = base64.b64encode(root).decode()
    message = f"pymirror epoch\n{trust.log}\n{epoch}\n{key}\n{node}\n{size}\n{text}"
    return base64.b64encode(hmac.new(trust.secret, message.encode(), sha256).digest()).decode()
