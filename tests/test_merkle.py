"""The Merkle tree: published vectors, a naive definition, a second library, tiles."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from cluster.errors import LogError
from cluster.log.merkle import (
    EMPTY_ROOT,
    HASH_SIZE,
    TILE_WIDTH,
    Frontier,
    frontier_at,
    leaf_hash,
    node_hash,
)

# The reference inputs of RFC 6962's own implementation, and the roots of their beginnings.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

leaf_lists = st.lists(st.binary(max_size=8), max_size=70)


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162 §2.1.1, word by word: k is the largest power of two smaller than n."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(naive_root(leaves[:k]), naive_root(leaves[k:]))


def of(leaves: Sequence[bytes]) -> Frontier:
    return Frontier().extended(leaf_hash(leaf) for leaf in leaves)


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size: int) -> None:
    """The roots of 0 to 8 leaves are the published ones."""
    assert of(LEAVES[:size]).root.hex() == ROOTS[size]


def test_empty_root() -> None:
    """A log without entries has the hash of nothing."""
    assert Frontier().root == EMPTY_ROOT


@given(leaf_lists)
def test_root_is_the_definition(leaves: list[bytes]) -> None:
    """Any tree's root is what the recursive definition gives."""
    assert of(leaves).root == naive_root(leaves)


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=70))
def test_root_is_the_other_library(leaves: list[bytes]) -> None:
    """pymerkle, written by others, gives the same root."""
    tree = InmemoryTree(algorithm="sha256")
    for leaf in leaves:
        tree.append_entry(leaf)
    assert of(leaves).root == tree.get_root()


@given(leaf_lists, st.integers(0, 70))
def test_extending_in_two_steps(leaves: list[bytes], cut: int) -> None:
    """A frontier that was extended in two steps is that of one step."""
    both = of(leaves[:cut]).extended(leaf_hash(leaf) for leaf in leaves[cut:])
    assert both == of(leaves)


@given(leaf_lists, leaf_lists)
def test_other_leaves_have_another_root(one: list[bytes], other: list[bytes]) -> None:
    """Equal roots mean equal leaves: nothing is left out of the hash."""
    assert (of(one).root == of(other).root) == (one == other)


@pytest.mark.parametrize(("size", "count"), [(0, 1), (1, 0), (5, 1), (6, 3), (-1, 0)])
def test_impossible_frontier(size: int, count: int) -> None:
    """A frontier has one hash for each set bit of its size."""
    with pytest.raises(LogError):
        Frontier(size, (bytes(HASH_SIZE),) * count)


def test_frontier_of_every_size_up_to_three_tiles() -> None:
    """From the tiles of a long log, each earlier frontier is what it was then."""
    hashes = [leaf_hash(str(n).encode()) for n in range(3 * TILE_WIDTH + 5)]
    tiles = {(0, n): b"".join(hashes[n * TILE_WIDTH : (n + 1) * TILE_WIDTH]) for n in range(4)}
    full = [Frontier().extended(hashes[n * TILE_WIDTH : (n + 1) * TILE_WIDTH]) for n in range(3)]
    tiles[1, 0] = b"".join(frontier.root for frontier in full)
    now = Frontier()
    for size, leaf in enumerate(hashes):
        assert frontier_at(size, lambda level, number: tiles[level, number]) == now
        now = now.extended([leaf])
