"""A file that is still arriving from one source, as its readers see it."""

from __future__ import annotations

import os
from pathlib import Path

from attrs import define, field

from cluster.errors import UpstreamError
from cluster.files.sink import Digests, HashingSink
from cluster.files.waiting import Broadcast


@define(eq=False)
class Arrival:
    """A file on its way, from one source or, where one was cut, on from the next.

    It settles once: verified and in the store, or failed. `length` is the file's size in bytes,
    or None while nobody knows it. `passes_on` is whether siblings may read along.
    """

    length: int | None
    _sink: HashingSink
    passes_on: bool = False
    digests: Digests | None = None
    """What the file is, once it is verified."""
    _error: Exception | None = None
    _final: Path | None = None
    _settled: Broadcast = field(factory=Broadcast)

    async def wait_beyond(self, offset: int) -> int:
        """Wait for more than `offset` bytes, or the verified end; returns how many can be read.

        The last byte is held back until the whole is verified: a reader that has sent its
        Content-Length can no longer say that the bytes were wrong (standards F4). Raises the
        failure of this attempt.
        """
        while self.digests is None and self._error is None:
            ready = self._unverified()
            if ready > offset:
                return ready
            if self._sink.finished or (self.length is not None and offset >= self.length - 1):
                await self._settled.wait()
            else:
                await self._sink.wait_beyond(offset)
        if self._error is not None:
            raise self._error
        return self.digests.size if self.digests else 0

    def open_file(self) -> int:
        """A descriptor to read from, for the caller to close; call it in a thread.

        Raises UpstreamError if the attempt has failed meanwhile.
        """
        try:
            return os.open(self._sink.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if self._error is not None:
                raise UpstreamError("the file was dropped while it was arriving") from self._error
            if self._final is None:
                raise
            return os.open(self._final, os.O_RDONLY | os.O_CLOEXEC)

    def will_be_at(self, final: Path) -> None:
        """Tell, before the rename, where the file moves to: no reader finds it nowhere."""
        self._final = final

    def verified(self, digests: Digests) -> None:
        """The file is what was asked for, and is in the store."""
        self.digests = digests
        self._settled.wake()

    def failed(self, error: Exception) -> None:
        """Nothing more will come, and what came is not to be believed."""
        self._error = error
        self._settled.wake()

    def _unverified(self) -> int:
        written = self._sink.bytes_written
        return written if self.length is None else min(written, self.length - 1)
