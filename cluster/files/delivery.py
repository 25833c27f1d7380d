"""One body on its way from a source into a sink."""

from __future__ import annotations

from attrs import define

from cluster.clock import Clock, Delayed
from cluster.files.sink import HashingSink, Pausable
from cluster.files.sources import CutOff, SourceBody, SourceError


@define(eq=False)
class Delivery:
    """Between a body and its sink: bounds the size, and gives up when the source stalls.

    `skip` bytes are here already and come once more; `limit` is the size of the whole file, of
    which `received` bytes are here or were left out.
    """

    _body: SourceBody
    _sink: HashingSink
    _clock: Clock
    _idle_seconds: float
    _limit: int | None
    _received: int = 0
    _skip: int = 0
    _last_byte_at: float = 0.0
    _producer: Pausable | None = None
    _timer: Delayed | None = None
    _stalled: SourceError | None = None

    async def run(self) -> None:
        """Wait until the body is in the sink. Raises why it is not."""
        self._watch()
        try:
            await self._body.deliver(self)
        except Exception as e:
            raise (self._stalled or e) from e
        finally:
            self._unwatch()

    def write(self, data: bytes) -> None:
        """Pass bytes on, but never more than were promised."""
        self._received += len(data)
        if self._limit is not None and self._received > self._limit:
            raise SourceError(f"more than the {self._limit} bytes that were expected")
        self._last_byte_at = self._clock.seconds()
        if self._skip:
            known = min(self._skip, len(data))
            self._skip -= known
            data = data[known:]
        if data:
            self._sink.write(data)

    def attach(self, producer: Pausable | None) -> None:
        """Stand between the sink and the connection it may pause."""
        self._producer = producer
        self._sink.attach(None if producer is None else self)

    def pauseProducing(self) -> None:
        """Pause the source; time in which our disk is slow is not the source's."""
        self._unwatch()
        if self._producer is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """Let the source send again."""
        self._watch()
        if self._producer is not None:
            self._producer.resumeProducing()

    def _watch(self) -> None:
        self._last_byte_at = self._clock.seconds()
        self._timer = self._clock.callLater(self._idle_seconds, self._look)

    def _unwatch(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _look(self) -> None:
        left = self._last_byte_at + self._idle_seconds - self._clock.seconds()
        if left > 0:
            self._timer = self._clock.callLater(left, self._look)
            return
        self._timer = None
        self._stalled = CutOff(f"no byte for {self._idle_seconds:g} s")
        self._body.abort()
