"""How fast a command reads what a running node has other work beside."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field


@define
class Pace:
    """Waits so that at most `rate` bytes a second are read; None: as fast as they come.

    `now` is monotonic seconds.
    """

    rate: int | None
    _now: Callable[[], float]
    _sleep: Callable[[float], None]
    _due: float = field(default=0.0, init=False)

    def read(self, size: int) -> None:
        """So many bytes were read; return when more may be. Time in which nothing was read is
        not made up for.
        """
        if self.rate is None:
            return
        now = self._now()
        self._due = max(self._due, now) + size / self.rate
        self._sleep(self._due - now)
