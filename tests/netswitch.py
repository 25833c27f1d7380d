"""A switch in user space for the hosts of `tests.netlab`: it cuts, delays, loses and throttles.

The kernels that tests run on seldom have netem, but all have TAP devices: each host's interface
is one, and every frame goes through a thread here. Slower than a bridge (about 280 MiB/s).
"""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import select
import threading
import time
from collections.abc import Mapping

from attrs import define, field

QUEUE_BYTES = 4 << 20
"""A link's buffer; frames beyond it are dropped, as a router would."""
_FRAME_BYTES = 65_600
_FRAMES_AT_ONCE = 64


@define
class Link:
    """One direction between two hosts: times in seconds, `rate` in bytes a second, 0 for none."""

    is_cut: bool = False
    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    rate: float = 0.0
    sent: int = 0
    dropped: int = 0
    _free_at: float = 0.0
    _last_due: float = 0.0
    queued: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether a frame passes at once."""
        return not (self.delay or self.jitter or self.rate or self.queued)

    def due(self, now: float, size: int, chance: random.Random) -> float:
        """When a frame that enters now leaves; a wire keeps the order."""
        start = max(now, self._free_at)
        if self.rate:
            self._free_at = start = start + size / self.rate
        at = start + max(0.0, self.delay + chance.uniform(-self.jitter, self.jitter))
        self._last_due = max(at, self._last_due)
        return self._last_due


@define(eq=False)
class Switch:
    """Moves frames between TAP devices, given by host as open, non-blocking descriptors."""

    taps: Mapping[str, int]
    macs: Mapping[str, bytes]
    links: dict[tuple[str, str], Link] = field(init=False)
    lock: threading.Lock = field(factory=threading.Lock)
    """Held while links are changed or read."""
    _chance: random.Random = field(factory=lambda: random.Random(1))
    _wake: tuple[int, int] = field(factory=lambda: os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
    _due: list[tuple[float, int, str, bytes, Link]] = field(factory=list)
    _count: int = 0
    _stopping: bool = False
    _thread: threading.Thread | None = None

    def __attrs_post_init__(self) -> None:
        self.links = {(a, b): Link() for a in self.taps for b in self.taps if a != b}

    def start(self) -> None:
        """Begin to move frames."""
        self._thread = threading.Thread(target=self._run, name="switch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, and close all descriptors."""
        self._stopping = True
        os.write(self._wake[1], b".")
        if self._thread is not None:
            self._thread.join(5)
        for fd in (*self.taps.values(), *self._wake):
            os.close(fd)

    def _run(self) -> None:
        poller, owner = select.poll(), {fd: host for host, fd in self.taps.items()}
        for fd in (*owner, self._wake[0]):
            poller.register(fd, select.POLLIN)
        while not self._stopping:
            self._send_due()
            wait_ms = None
            if self._due:
                wait_ms = int(max(0.0, self._due[0][0] - time.monotonic()) * 1_000) + 1
            for fd, _ in poller.poll(wait_ms):
                if fd in owner:
                    self._take(owner[fd], fd)

    def _send_due(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, _, to, frame, link = heapq.heappop(self._due)
            link.queued -= len(frame)
            self._send(to, frame)

    def _send(self, to: str, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # that end is down, or its queue is full
            os.write(self.taps[to], frame)

    def _take(self, sender: str, fd: int) -> None:
        for _ in range(_FRAMES_AT_ONCE):
            try:
                frame = os.read(fd, _FRAME_BYTES)
            except OSError:
                return
            is_multicast = bool(frame[0] & 1)
            for to, mac in self.macs.items():
                if to != sender and (is_multicast or mac == frame[:6]):
                    self._pass(self.links[sender, to], to, frame)

    def _pass(self, link: Link, to: str, frame: bytes) -> None:
        with self.lock:
            is_lost = link.is_cut or (link.loss > 0 and self._chance.random() < link.loss)
            if is_lost or link.queued + len(frame) > QUEUE_BYTES:
                link.dropped += 1
                return
            link.sent += 1
            if link.is_plain:
                self._send(to, frame)
                return
            self._count += 1
            link.queued += len(frame)
            at = link.due(time.monotonic(), len(frame), self._chance)
            heapq.heappush(self._due, (at, self._count, to, frame, link))
