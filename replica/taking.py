"""One page of the log: verified, and applied in one transaction."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from attrs import frozen
from sqlalchemy import Connection

from cluster.errors import LogError
from cluster.log import changelog, notes
from cluster.log.changes import decode
from cluster.log.checkpoint import Checkpoint, LogKey
from cluster.log.epochs import MARK, Owner, Start, Trust, next_owner, owner_after
from cluster.log.merkle import Frontier, leaf_hash
from cluster.protocol import TailPage, log_origin
from cluster.state import queries
from cluster.state.apply import apply
from cluster.state.position import Head
from cluster.state.rows import Touched


@frozen
class Taken:
    """A page after it was applied; `checkpoint` is the signed note for its end."""

    checkpoint: bytes
    frontier: Frontier
    head: Head
    touched: Touched


def take(
    connection: Connection,
    trust: Trust,
    at: Frontier,
    page: TailPage,
    later: Sequence[Start] = (),
) -> Taken:
    """Verify a page and apply it in the caller's transaction; raises LogError, UnknownFormat.

    `later` are proven epochs that the page need not have come to: their owners vouch for all of
    the log before them.

    The checkpoint is checked before anything else: bytes that the log's owner did not sign are
    not looked into, but for entries that say who the owner is, and prove it themselves.
    """
    known = queries.epoch(connection)
    owner = None if known is None else Owner(known.epoch, known.key)
    signer = _signer(trust, owner, at, page)
    keys = [signer.key, *(start.key for start in later if start.epoch > signer.epoch)]
    checkpoint = _opened(trust, keys, page.checkpoint)
    leaves = [leaf_hash(entry) for entry in page.entries]
    after = at.extended(leaves)
    if checkpoint.size != after.size:
        raise LogError(f"the checkpoint is for {checkpoint.size} entries, the page ends at "
                       f"{after.size}")  # fmt: skip
    if checkpoint.root != after.root:
        raise LogError("the entries do not have the root that the checkpoint signs")
    entries = [decode(raw) for raw in page.entries]
    owner = owner_after(trust, owner, entries, at)
    if entries and not entries[-1].ends_group:
        raise LogError("a page of the log ends inside a group")
    touched = Touched()
    for entry in entries:
        apply(connection, entry, touched)
    changelog.store(connection, at.size, entries, leaves)
    if entries or notes.at(connection, at.size) is None:
        notes.keep(connection, at.size, after.size, page.checkpoint)
    time = entries[-1].time if entries else None
    head = Head(after.size, owner.epoch, after.root, time)
    return Taken(page.checkpoint, after, head, touched)


def _opened(trust: Trust, keys: Sequence[str], note: bytes) -> Checkpoint:
    """The checkpoint in a note that one of the keys (base64) has signed; raises LogError."""
    name = log_origin(trust.log)
    for at, key in enumerate(keys, start=1):
        try:
            checkpoint = LogKey(name, base64.b64decode(key)).open(note)
            break
        except LogError:
            if at == len(keys):
                raise
    if checkpoint.origin != name:
        raise LogError(f"a checkpoint of {checkpoint.origin}, not of {name}")
    return checkpoint


def _signer(trust: Trust, owner: Owner | None, at: Frontier, page: TailPage) -> Owner:
    """Who must have signed a page: the owner behind it."""
    for place, raw in enumerate(page.entries):
        if MARK in raw:
            before = at.extended(leaf_hash(entry) for entry in page.entries[:place])
            owner = next_owner(trust, owner, decode(raw), before)
    return owner or Owner(0, trust.key)
