"""What the tests of power cuts share: a disk for one node, and what must be whole on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from attrs import define

from cluster.log.epochs import Trust
from cluster.log.snapshot import is_whole, open_manifest
from cluster.promotion import opened, standing
from cluster.protocol import log_origin
from primary.snapshotfiles import MANIFEST
from tests.functional.crashing import SOAK
from tests.functional.helpers import ROOT_PASSWORD
from tests.powercut import Volume, volume
from tests.processes import Cluster, Node
from tests.strace import Point, attached, points, spread

NEVER = Point("fsync", 10_000)
"""Cuts the power when all is done, a moment after the answer."""
ROOMY = ("--min-free", "0")
"""For a primary: the disk is smaller than what it keeps free."""
DURABLE = ("fsync", "fdatasync", "rename", "symlink", "unlink", "write", "pwrite64")


@define
class Site:
    """One node's folder is on a disk that loses its power; the others are beside it."""

    disk: Volume
    beside: Cluster
    on_disk: Cluster

    def node(self, name: str, program: str, *arguments: str) -> Node:
        """A node on that disk, not started; what it writes for operators is not there."""
        return self._logged(self.on_disk.node(name, program, _roomy(program, arguments)))

    def become(self, node: Node, program: str, *arguments: str) -> Node:
        """The other role with the folder of a stopped node on that disk, not started."""
        return self._logged(self.on_disk.become(node, program, *_roomy(program, arguments)))

    def _logged(self, node: Node) -> Node:
        node.log = self.beside.directory / f"{node.name}-on-disk.log"
        return node

    @property
    def trace(self) -> Path:
        """Where strace writes."""
        return self.beside.directory / "trace"

    def root_password_file(self) -> str:
        """An option's value for a primary on that disk."""
        path = self.beside.directory / "root-password"
        path.write_text(ROOT_PASSWORD)
        path.chmod(0o600)
        return str(path)


def _roomy(program: str, arguments: tuple[str, ...]) -> list[str]:
    return [*(ROOMY if program == "pymirror-primary" else ()), *arguments]


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """A fresh disk, and clusters on it and beside it with one secret; skips without a disk."""
    with volume(folder) as disk, Cluster(disk.place) as on_disk, Cluster(folder) as beside:
        on_disk.secret_file = beside.secret_file
        yield Site(disk, beside, on_disk)


def check_store(folder: Path) -> int:
    """R9: each file in a stopped node's store has its digest; how many there are."""
    count = 0
    for path in (folder / "files" / "sha256").glob("*/*"):
        assert sha256(path.read_bytes()).hexdigest() == path.name, path
        count += 1
    return count


def check_kept(folder: Path, contents: Iterable[bytes]) -> None:
    """R8: files with these contents are in a stopped node's store, whole."""
    for data in contents:
        name = sha256(data).hexdigest()
        path = folder / "files" / "sha256" / name[:2] / name
        assert path.exists(), f"{path} is not there"
        assert path.read_bytes() == data, path


def recorded_in(
    folder: Path, node: Node, trace: Path, act: Callable[[], object], most: int
) -> list[Point]:
    """The points in a part of its folder at which to crash a node that does `act`."""
    with attached(node.pid, trace):
        act()
    found = [point for point in points(trace, folder) if point.call in DURABLE]
    assert found, trace.read_text()
    return found if SOAK else spread(found, most)


def whole_snapshots(folder: Path, secret: bytes) -> list[int]:
    """The serials of a stopped primary's snapshots; each that has its name is whole."""
    with opened(folder) as engine:
        mine = standing(engine)
    trust, found = Trust(mine.log, mine.key, secret), []
    for made in (folder / "snapshots").glob("[0-9]*"):
        raw = (made / MANIFEST).read_bytes()
        manifest = open_manifest(raw, log_origin(mine.log), trust)
        for number, chunk in enumerate(manifest.chunks):
            assert is_whole(chunk, (made / f"{number:05}").read_bytes()), (made, number)
        found.append(manifest.serial)
    return sorted(found)
