"""The write-ahead log of a SQLite database, made durable apart from the commits."""

from __future__ import annotations

import os
from pathlib import Path

from attrs import define

from cluster.durable import sync_folder
from cluster.errors import NotDurable


@define(eq=False)
class WriteAheadLog:
    """That of the database at `path`, which may be a link that changes while the node runs."""

    path: Path
    _refused: NotDurable | None = None
    _file: int | None = None
    _inode: int | None = None

    def sync(self) -> None:
        """Wait until all that was committed before survives a power cut; blocking.

        Raises NotDurable, and then for ever: a second fsync would succeed although what the first
        one could not write is lost.
        """
        if self._refused is None:
            try:
                self._sync()
            except OSError as error:
                self._refused = NotDurable(
                    f"{self.path} cannot be made durable: {error}; mend the disk, then restart"
                )
        if self._refused is not None:
            raise self._refused

    def _sync(self) -> None:
        # SQLite follows links: the log lies beside the file that it opened.
        real = self.path.resolve()
        log = real.with_name(f"{real.name}-wal")
        is_new = False
        try:
            if self._file is None or log.stat().st_ino != self._inode:
                self.close()
                # Kept open: an error that a checkpoint of SQLite meets is told to who has the
                # file open then, not to who opens it later.
                self._file, is_new = os.open(log, os.O_RDONLY), True
        except FileNotFoundError:
            # Who closed the last connection has made the database durable and removed its log.
            self.close()
            return
        os.fsync(self._file)
        if is_new:
            sync_folder(log.parent)
            self._inode = os.fstat(self._file).st_ino

    def close(self) -> None:
        """Let the file go. SQLite locks its database and the -shm, never the -wal: nothing else is
        released by that.
        """
        if self._file is not None:
            os.close(self._file)
        self._file = None
