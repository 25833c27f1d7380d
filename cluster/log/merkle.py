"""The Merkle tree over the change log: RFC 6962 §2.1 / RFC 9162 §2.1, SHA-256 (pure).

`Frontier` is the compact range of a log's head: O(log n) hashes from which the root follows
and which an append extends. Followers keep one and check every page against the signed root.
`TILE_WIDTH` hashes make a tile (C2SP tlog-tiles, height 8); from the tiles, `frontier_at`
finds the frontier of any earlier size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

from attrs import frozen

from cluster.errors import LogError

HASH_SIZE = 32
TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT

EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one log entry: SHA-256(0x00 || entry) (RFC 9162 §2.1.1)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: SHA-256(0x01 || left || right) (RFC 9162 §2.1.1)."""
    return sha256(b"\x01" + left + right).digest()


@frozen
class Frontier:
    """The compact range of the first `size` leaves: its perfect subtrees' roots, largest first."""

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __attrs_post_init__(self) -> None:
        """Raise LogError unless there is one hash for each set bit of the size."""
        if self.size < 0 or len(self.hashes) != self.size.bit_count():
            raise LogError(
                f"{len(self.hashes)} hashes cannot be the frontier of {self.size} leaves"
            )

    def extended(self, leaf_hashes: Iterable[bytes]) -> Frontier:
        """The frontier after these leaves."""
        size, stack = self.size, list(self.hashes)
        for leaf in leaf_hashes:
            size += 1
            stack.append(leaf)
            # Each trailing zero bit of the new size closes one more perfect subtree.
            for _ in range((size & -size).bit_length() - 1):
                right = stack.pop()
                stack.append(node_hash(stack.pop(), right))
        return Frontier(size, tuple(stack))

    @property
    def root(self) -> bytes:
        """The root hash of all leaves so far (32 bytes)."""
        return fold_root(self.hashes)


def fold_root(subtrees: Sequence[bytes]) -> bytes:
    """The root over perfect subtrees of falling size, as `Frontier.hashes` holds them."""
    if not subtrees:
        return EMPTY_ROOT
    root = subtrees[-1]
    for left in reversed(subtrees[:-1]):
        root = node_hash(left, root)
    return root


def perfect_root(hashes: bytes) -> bytes:
    """The root over sibling hashes, joined; they are a power of two."""
    while len(hashes) > HASH_SIZE:
        pairs = range(0, len(hashes), 2 * HASH_SIZE)
        hashes = b"".join(
            [sha256(b"\x01" + hashes[at : at + 2 * HASH_SIZE]).digest() for at in pairs]
        )
    return hashes


def frontier_at(size: int, tile: Callable[[int, int], bytes]) -> Frontier:
    """The frontier of the first `size` leaves, from the tiles of a log at least as long.

    `tile(level, number)` gives the concatenated hashes of a tile, at least as many as the log
    of that size needs. Costs at most 255 hashes a level, so it can be asked for any size.
    """
    subtrees: list[bytes] = []
    level = 0
    remaining = size
    while remaining:
        full, partial = divmod(remaining, TILE_WIDTH)
        if partial:
            data = tile(level, full)
            subtrees = _binary_subtrees(data, partial) + subtrees
        remaining = full
        level += 1
    return Frontier(size, tuple(subtrees))


def _binary_subtrees(data: bytes, count: int) -> list[bytes]:
    found, start = [], 0
    for bit in range(count.bit_length() - 1, -1, -1):
        width = (1 << bit) * HASH_SIZE
        if count & 1 << bit:
            found.append(perfect_root(data[start : start + width]))
            start += width
    return found
