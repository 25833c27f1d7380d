"""A fetch as those see it who want the file, and which sources are left to ask."""

from __future__ import annotations

from collections import Counter

from attrs import define, evolve, field

from cluster.errors import PymirrorError, UpstreamError
from cluster.files.arrival import Arrival
from cluster.files.sink import Digests, HashingSink
from cluster.files.sources import CutOff, Source, SourceBody, SourceError, Wanted
from cluster.files.waiting import Broadcast

MOST_CUTS = 8
_SERVER_ERRORS = 500


@define(eq=False)
class Part:
    """What has arrived so far, and from where."""

    sink: HashingSink
    arrival: Arrival
    source: Source | None = None
    etag: str | None = None
    is_mixed: bool = False
    kept: bool = True

    def goes_on(self, source: Source, body: SourceBody, length: int | None) -> None:
        """The rest, or all, comes from this source."""
        self.is_mixed = self.is_mixed or self.source not in (None, source)
        self.source, self.etag, self.kept = source, body.etag, body.kept
        self.arrival.length, self.arrival.passes_on = length, body.passes_on

    def rest_of(self, wanted: Wanted, source: Source) -> Wanted:
        """What to ask a source for, now that this is here."""
        here = self.sink.bytes_written
        if wanted.sha256 is not None:
            return evolve(wanted, start=here)
        # Another server's tag may be the same by chance: without a digest it proves nothing.
        return evolve(wanted, start=here, if_range=self.etag) if source is self.source else wanted

    def can_go_on(self, wanted: Wanted) -> bool:
        """Whether a cut can be mended: the whole is checked by its digest, or the source says
        that it still has the same file.
        """
        if self.sink.error is not None or self.sink.bytes_written == 0:
            return False
        return wanted.sha256 is not None or self.etag is not None


@define(eq=False)
class Round:
    """Which sources are still to be asked, and what the others said."""

    wanted: Wanted
    waiting: list[Source]
    failures: list[UpstreamError] = field(factory=list)
    again: list[Source] = field(factory=list)
    _cuts: Counter[int] = field(factory=Counter)

    def failed(
        self, source: Source, error: UpstreamError, has_progressed: bool, is_mixed: bool
    ) -> None:
        """A source that was cut after it sent something is asked for the rest, at the end."""
        self.failures.append(error)
        if isinstance(error, CutOff) and has_progressed and self._cuts[id(source)] < MOST_CUTS:
            self._cuts[id(source)] += 1
            # Without a digest nobody else can give the rest of the same file.
            at = len(self.waiting) if self.wanted.sha256 is not None else 0
            self.waiting.insert(at, source)
        elif isinstance(error, SourceError):
            if error.http_status is None or error.http_status >= _SERVER_ERRORS:
                self.again.append(source)
        elif is_mixed:
            # The wrong bytes may be those of another source: alone it gets one more chance.
            self.waiting.append(source)

    def begin(self) -> None:
        """Ask those once more who were out of reach or cut."""
        self.waiting, self.again = self.again, []


@define(eq=False)
class Transfer:
    """One fetch, shared by all who want the file. Nobody's leaving ends it."""

    wanted: Wanted
    part: Part | None = None
    is_mixed: bool = False
    """Whether the last attempt went on with what another source had begun."""
    is_unverified: bool = False
    """Whether what arrives comes from where nobody can vouch for it."""
    _arrival: Arrival | None = None
    outcome: Digests | PymirrorError | None = None
    _changed: Broadcast = field(factory=Broadcast)

    async def arrival(self) -> Arrival:
        """The file as it arrives, as soon as a source has answered.

        After that source has failed, this waits for the next one. Raises what `done` raises when
        none is left.
        """
        while self._arrival is None and not isinstance(self.outcome, PymirrorError):
            await self._changed.wait()
        if isinstance(self.outcome, PymirrorError):
            raise self.outcome
        assert self._arrival is not None  # noqa: S101 - for the type checker
        return self._arrival

    async def headers(self) -> int | None:
        """The file's size in bytes, or None if nobody knows it yet; waits like `arrival`."""
        return (await self.arrival()).length

    async def done(self) -> Digests:
        """Wait until the file is in the store; returns its size and digests.

        Raises NotFound if every source says so, Unavailable if our disk refuses, UpstreamError
        if no source delivered the file.
        """
        while self.outcome is None:
            await self._changed.wait()
        if isinstance(self.outcome, PymirrorError):
            raise self.outcome
        return self.outcome

    @property
    def present(self) -> Arrival | None:
        """The file as it arrives, if a source has answered."""
        return self._arrival

    @property
    def bytes_here(self) -> int:
        """How much of the file has arrived."""
        return 0 if self.part is None else self.part.sink.bytes_written

    def arrives(self, part: Part | None) -> None:
        """A source begins to deliver, or what had come is dropped."""
        self.part = part
        self._arrival = None if part is None else part.arrival
        self._changed.wake()

    def settle(self, outcome: Digests | PymirrorError) -> None:
        """The end."""
        self.outcome = outcome
        self._changed.wake()
