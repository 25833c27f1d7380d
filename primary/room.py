"""Room on the disk: uploads are refused while there is still some left.

The log, the databases and whoever reads live on what is left. An upload that fills the disk comes
to nothing itself, and would make all of them fail.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from attrs import frozen

from cluster.errors import DiskRefused

DEFAULT_FLOOR_BYTES: Final = 100_000_000


@frozen
class Room:
    """The disk of `folder`, of which uploads leave `floor_bytes` free."""

    _folder: Path
    floor_bytes: int = DEFAULT_FLOOR_BYTES

    @property
    def free_bytes(self) -> int:
        """What is free there, for those who are not root."""
        # Called on the reactor: of a local file system, and no other holds a database, the kernel
        # knows this without asking the disk.
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize

    def require(self, size: int = 0) -> None:
        """Return if there is room for an upload of so many bytes; raises DiskRefused."""
        free = self.free_bytes
        if self.floor_bytes and free - size < self.floor_bytes:
            raise DiskRefused(
                f"no room for {size} bytes on the primary's disk: {free} are free, of which "
                f"{self.floor_bytes} are kept (--min-free)"
            )

    def document(self) -> dict[str, int]:
        """The `disk` part of the status."""
        return {"free_bytes": self.free_bytes, "floor_bytes": self.floor_bytes}
