"""A disk that keeps apart what was synced and what was only written, for one node's folder.

The files are real, so the nodes' own code writes them. `os.fsync` is watched: of a file it makes
the bytes durable, of a folder its names. A power cut leaves of everything else what chance wants.
SQLite syncs by itself, at each commit as it is set up here (FULL): its files are durable as they
are, its commits happen wholly or not, and `Disk.fails_at` can end a node in the middle of one.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from attrs import define, field, frozen


class PowerCut(BaseException):
    """The machine went off in the middle of what it was doing."""


@frozen
class _Folder:
    """A folder's names, and what each leads to."""

    names: dict[str, int]


Image = dict[str, "bytes | str | None"]
"""Files by path relative to the root: bytes, a link's target, or None for a folder."""


@define(eq=False)
class Disk:
    """What is durable in `root`; folders and files are known by their inode's number."""

    root: Path
    fails_at: int | None = None
    """The power goes off instead of the n-th sync from now (1: the next)."""
    image: Image | None = None
    """What was there when the power went off."""
    _files: dict[int, bytes | str] = field(factory=dict)
    _folders: dict[int, _Folder] = field(factory=dict)
    _chance: random.Random = field(factory=lambda: random.Random(0))
    _lives: int = 0

    def settle(self) -> None:
        """All that is there is durable."""
        self._files.clear()
        self._folders.clear()
        for path in (self.root, *self.root.rglob("*")):
            number = path.lstat().st_ino
            if path.is_dir() and not path.is_symlink():
                self._folders[number] = _Folder(_names(path))
            else:
                self._files[number] = _content(path)

    def synced(self, path: Path) -> None:
        """`os.fsync` of something below the root; raises PowerCut when the test wants it."""
        if self.fails_at is not None:
            self.fails_at -= 1
            if self.fails_at <= 0:
                self.fails_at = None
                self.image = self.after_power_cut(self._chance)
                raise PowerCut
        number = path.stat().st_ino
        if path.is_dir():
            self._folders[number] = _Folder(_names(path))
            for child in path.iterdir():
                if child.is_symlink():
                    self._files[child.lstat().st_ino] = _content(child)
        else:
            self._files[number] = _content(path)

    def cut_after(self, syncs: int, chance: random.Random) -> None:
        """Let the power go off at a sync to come."""
        self.fails_at, self._chance, self.image = syncs, chance, None

    def after_kill(self) -> Image:
        """All that was written: the process ended, the machine goes on."""
        found: Image = {}
        for path in sorted(self.root.rglob("*")):
            if path.name.endswith("-shm"):
                continue
            name = str(path.relative_to(self.root))
            if path.is_symlink():
                found[name] = os.readlink(path)
            else:
                found[name] = None if path.is_dir() else path.read_bytes()
        return found

    def after_power_cut(self, chance: random.Random) -> Image:
        """What is durable, and of the rest what chance wants."""
        found: Image = {}
        self._survivors(self.root, "", chance, found)
        return found

    def _survivors(self, folder: Path, prefix: str, chance: random.Random, found: Image) -> None:
        now = _names(folder)
        synced = self._folders.get(folder.stat().st_ino, _Folder({})).names
        for name in sorted({*now, *synced}):
            path = folder / name
            if ".sqlite" in name:
                if name in now and not name.endswith("-shm"):
                    found[prefix + name] = _content(path)
                continue
            survives_new = now.get(name) == synced.get(name) or chance.random() < 0.5
            number = (now if survives_new else synced).get(name)
            if number is None:
                continue
            if number == now.get(name) and path.is_dir() and not path.is_symlink():
                found[prefix + name] = None
                self._survivors(path, f"{prefix}{name}/", chance, found)
            elif number == now.get(name) and path.is_symlink():
                found[prefix + name] = os.readlink(path)
            elif number in self._files:
                found[prefix + name] = self._files[number]
            elif number not in self._folders:  # never synced: any part of it
                written = path.read_bytes() if number == now.get(name) else b""
                found[prefix + name] = written[: chance.randrange(len(written) + 1)]

    def restore(self, image: Image) -> None:
        """Make the folder what an image holds, all of it durable."""
        shutil.rmtree(self.root)
        # Elsewhere: a connection of the dead node that is collected late removes, by its path,
        # the write-ahead log of the database that it had open.
        self._lives += 1
        self.root = self.root.with_suffix(f".{self._lives}")
        self.root.mkdir()
        for name, content in sorted(image.items()):
            path = self.root / name
            if content is None:
                path.mkdir()
            elif isinstance(content, str):
                path.symlink_to(content)
            else:
                path.write_bytes(content)
        self.image = self.fails_at = None
        self.settle()


def _names(folder: Path) -> dict[str, int]:
    return {path.name: path.lstat().st_ino for path in folder.iterdir()}


def _content(path: Path) -> bytes | str:
    return os.readlink(path) if path.is_symlink() else path.read_bytes()


@contextmanager
def watched(disks: Callable[[], Iterator[Disk]]) -> Iterator[None]:
    """Tell disks of each `os.fsync` in this process while the block runs."""
    real = os.fsync

    def fsync(descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        path = Path(os.readlink(f"/proc/self/fd/{number}"))
        for disk in disks():
            if disk.root == path or disk.root in path.parents:
                disk.synced(path)
                return
        real(descriptor)

    cast(Any, os).fsync = fsync
    try:
        yield
    finally:
        cast(Any, os).fsync = real
