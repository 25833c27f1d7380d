"""A file system that a test can take the power from: what was not synced is gone.

ext4 and XFS know a shutdown (for xfstests) that drops what is only in memory; on a loop device it
costs a fraction of a second. It needs root, loop devices and the right to mount.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import frozen

_SHUTDOWN = 0x8004587D
_DROP_THE_LOG = 2
_SIZES = {"xfs": 320 << 20, "ext4": 64 << 20}


@frozen
class Volume:
    """A mounted file system in an image file."""

    image: Path
    place: Path

    def mount(self) -> None:
        """Bring it up; a journal is replayed."""
        _run("mount", "-o", "loop", str(self.image), str(self.place))

    def unmount(self) -> None:
        """Take it down in order."""
        _run("umount", str(self.place))

    def settle(self) -> None:
        """Make all durable that is there."""
        _run("sync", "-f", str(self.place))

    def cut(self) -> None:
        """The power goes off, and comes back."""
        descriptor = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _DROP_THE_LOG))
        finally:
            os.close(descriptor)
        self.unmount()
        self.mount()


@contextmanager
def volume(folder: Path) -> Iterator[Volume]:
    """A fresh file system; skips the test where that is not possible, and says why."""
    if os.geteuid() != 0:
        pytest.skip("a power cut needs root, to mount a file system")
    kind = next((name for name in _SIZES if shutil.which(f"mkfs.{name}")), None)
    if kind is None:
        pytest.skip("no mkfs.ext4 or mkfs.xfs: apt-get install e2fsprogs")
    made = Volume(folder / "image", folder / "mounted")
    made.place.mkdir()
    with made.image.open("wb") as file:
        file.truncate(_SIZES[kind])
    _run(f"mkfs.{kind}", "-q", str(made.image))
    try:
        made.mount()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"loop devices cannot be mounted here: {error.stderr.strip()}")
    try:
        yield made
    finally:
        made.unmount()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
