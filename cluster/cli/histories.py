"""How much of another node's log this one's lacks, also when both have gone on by themselves."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from cluster.cli.asking import NodeAnswers
from cluster.log.epochs import parting
from cluster.promotion import Standing
from cluster.protocol import EPOCHS_PATH


@frozen
class Histories:
    """Compares others with a folder that has `mine`, and the Merkle root `root_at` a size."""

    _asked: NodeAnswers
    mine: Standing
    _root_at: Callable[[int], bytes]

    def lacking(self, url: str, serial: int, root: bytes | None) -> int:
        """How many entries of a node's log are not in ours; `root` is that at its `serial`.

        Raises LogError when the node does not give what is to be compared.
        """
        parted = parting(self.mine.starts, self._asked.starts(url + EPOCHS_PATH))
        most = min(serial, self.mine.serial)
        if parted is not None:
            most = min(most, parted.serial - 1)

        def same(size: int) -> bool:
            theirs = root if size == serial else None
            return self._root_at(size) == (theirs or self._asked.root_at(url, size))

        return serial - common(most, same)


def common(most: int, same: Callable[[int], bool]) -> int:
    """Up to which size, at most `most`, two logs are the `same`: halved, as they part once."""
    if same(most):
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if same(middle) else (low, middle)
    return low
