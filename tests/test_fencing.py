"""A fence counts as heard once it is on disk: whoever ordered it crosses the node off then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred

from cluster.promotion import FENCE_FILE
from cluster.threads import Runner
from primary.fence import Order
from primary.fencing import Fencing, Superseded, read_fence
from primary.tofence import read_left


@define
class HeldThreads:
    """Runs functions when told to, as the threads of a busy pool do."""

    waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = field(factory=list)

    async def run(self, f: Callable[..., Any], *args: Any) -> Any:
        """As `Threads.run`."""
        done: Deferred[Any] = Deferred()
        self.waiting.append((done, lambda: f(*args)))
        return await done

    def work(self) -> None:
        """Run all, those that came last first."""
        while self.waiting:
            done, call = self.waiting.pop()
            result = call()
            if not done.called:
                done.callback(result)

    def fail(self) -> None:
        """The disk is full for what came first."""
        self.waiting.pop(0)[0].errback(OSError(28, "No space left on device"))


@define
class Primary:
    """One of epoch 1, and the orders that it gets."""

    folder: Path
    threads: HeldThreads = field(factory=HeldThreads)
    splits: list[str] = field(factory=list)
    fencing: Fencing = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.fencing = Fencing(
            self.folder, cast(Runner, self.threads), lambda: 1, lambda: None, None, lambda: 9.0,
            lambda: self.splits.append("told"),
        )  # fmt: skip

    def order(self, epoch: int, key: str | None = None) -> Deferred[None]:
        """An order as it arrives."""
        return Deferred.fromCoroutine(self.fencing.learn(Order(epoch, key=key)))

    def epoch_on_disk(self) -> int | None:
        """That of the fence which a restart finds."""
        fence = read_fence(self.folder)
        return None if fence is None else fence.epoch


def answered(*orders: Deferred[None]) -> list[bool]:
    """Whether those who ordered have their answers."""
    return [one.called for one in orders]


@pytest.fixture
def primary(tmp_path: Path) -> Primary:
    """With an empty folder."""
    return Primary(tmp_path)


def test_a_write_that_failed(primary: Primary) -> None:
    """The same order again is not answered before the fence is on disk."""
    first = primary.order(2)
    primary.threads.fail()
    first.addErrback(lambda failure: failure.trap(OSError))
    with pytest.raises(Superseded):
        primary.fencing.check()
    again = primary.order(2)
    assert answered(again) == [False]
    primary.threads.work()
    assert answered(again) == [True]
    assert primary.epoch_on_disk() == 2
    assert answered(primary.order(2)) == [True], "what is on disk is not written again"


def test_two_equal_orders_at_once(primary: Primary) -> None:
    """The second is not answered while the fence of the first is on its way to the disk."""
    first, second = primary.order(2), primary.order(2)
    assert answered(first, second) == [False, False]
    primary.threads.work()
    assert answered(first, second) == [True, True]
    assert primary.epoch_on_disk() == 2


def test_two_orders_at_once(primary: Primary) -> None:
    """The older fence never ends on disk, in whatever order threads come to work."""
    older, newer = primary.order(2), primary.order(3)
    primary.threads.work()
    assert answered(older, newer) == [True, True]
    assert primary.epoch_on_disk() == 3


def test_whoever_ordered_it_has_left(primary: Primary) -> None:
    """The thread that writes goes on: what comes next is not written beside it."""
    left = primary.order(2)
    left.addErrback(lambda failure: failure.trap(CancelledError))
    left.cancel()
    later = primary.order(3)
    assert len(primary.threads.waiting) == 1
    primary.threads.work()
    assert answered(later) == [True]
    assert primary.epoch_on_disk() == 3


def test_a_split_whose_first_write_failed(primary: Primary) -> None:
    """The others are told of it once it is on disk."""
    rival = "A" * 43 + "="
    first = primary.order(1, rival)
    primary.threads.fail()
    first.addErrback(lambda failure: failure.trap(OSError))
    primary.order(1, rival)
    primary.threads.work()
    primary.order(1, rival)
    assert primary.splits == ["told"]


def test_a_node_that_is_named_twice(tmp_path: Path) -> None:
    """It is told once: the second would be left when it has heard it."""
    urls = ["http://one.example", "http://other.example"]
    (tmp_path / FENCE_FILE).write_text("".join(f"{url}\n" for url in [*urls, *urls]))
    assert read_left(tmp_path) == urls
