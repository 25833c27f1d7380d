"""Room on the disk: uploads are refused while there is still some left.

The log, the databases and whoever reads live on what is left. An upload that fills the disk comes
to nothing itself, and would make all of them fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attrs import define, field

from cluster.errors import DiskRefused
from cluster.web.body import RequestStream

DEFAULT_FLOOR_BYTES: Final = 100_000_000


@define(eq=False)
class Room:
    """The disk of `folder`, of which uploads leave `floor_bytes` free."""

    _folder: Path
    floor_bytes: int = DEFAULT_FLOOR_BYTES
    _coming: list[RequestStream] = field(factory=list)

    @property
    def free_bytes(self) -> int:
        """What is free there, for those who are not root; raises OSError."""
        # Called on the reactor: of a local file system, and no other holds a database, the kernel
        # knows this without asking the disk.
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize

    def require(self, size: int = 0) -> None:
        """Return if there is room for an upload of so many bytes, beside what is still to come of
        others; raises DiskRefused.
        """
        if not self.floor_bytes:
            return
        try:
            free = self.free_bytes - sum(stream.left for stream in self._coming)
        except OSError as error:
            raise DiskRefused(f"the primary's disk does not tell its room: {error}") from error
        if free - size < self.floor_bytes:
            raise DiskRefused(
                f"no room for {size} bytes on the primary's disk: {max(0, free)} are free, of "
                f"which {self.floor_bytes} are kept (--min-free)"
            )

    @contextmanager
    def taking(self, stream: RequestStream) -> Iterator[None]:
        """Count what is still to come of a body, until the block ends."""
        self._coming.append(stream)
        try:
            yield
        finally:
            self._coming.remove(stream)

    def document(self) -> dict[str, int | None]:
        """The `disk` part of the status."""
        try:
            free: int | None = self.free_bytes
        except OSError:
            free = None
        return {"free_bytes": free, "floor_bytes": self.floor_bytes}
