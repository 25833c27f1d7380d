"""`pymirror verify` where nodes never stand still: what is compared is of one state, or nothing."""

from __future__ import annotations

import threading
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest
from attrs import define, field

from cluster.cli import comparing
from cluster.cli.asking import Asked, NodeAnswers
from cluster.cli.comparing import Difference, Pair, Trouble, compare_pages, compare_state

ONE, OTHER = "http://one.example", "http://other.example"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "_PAUSE_SECONDS", 0.0)


@define(eq=False)
class Busy:
    """Two nodes; before each answer of theirs `step` entries are written. The second passes
    through every `stride`th state alone, and stays where it is behind `last`.

    `wrong` is what the second serves otherwise; without `headers` a front takes them away.
    """

    step: int = 3
    stride: int = 1
    last: int = 1 << 60
    wrong: str = ""
    headers: bool = True
    serial: int = 100
    digests: int = 0
    _lock: threading.Lock = field(factory=threading.Lock)

    def ask(self, method: str, url: str, body: object = None, *, seconds: float = 0) -> Asked:
        """As `NodeAnswers.ask`."""
        node, _, path = url.partition("/+")
        with self._lock:
            wanted = parse_qs(urlsplit(url).query).get("at")
            serial = self._now(node, None if wanted is None else int(wanted[0]))
            said: dict[str, Any] = {"serial": serial, "schema": 4}
            if path.startswith("node/projects"):
                return Asked(200, {"projects": [] if "demo" in url else [("root/dev", "demo")]}, "")
            if path.startswith("node/state") and (wanted is None or int(wanted[0]) == serial):
                self.digests += 1
                digest = f"{serial}{self.wrong if node == OTHER else ''}"
                key = "buckets" if "node/state?" in url or url.endswith("state") else "keys"
                said[key] = {"root/dev demo": digest, "other": "x"}
            return Asked(200, said, "")

    def page(self, url: str, accept: str) -> tuple[bytes | None, str | None]:
        """As `NodeAnswers.page`."""
        node = url.partition("/root/")[0]
        with self._lock:
            serial = self._now(node, None)
            text = f"{serial}{self.wrong if node == OTHER else ''}"
            return text.encode(), f"{serial}" if self.headers else None

    def _now(self, node: str, wanted: int | None) -> int:
        self.serial += self.step
        now = self.serial
        if wanted is not None:  # waits until it is there
            self.serial = now = max(self.serial - self.step, wanted)
        return now if node == ONE else min(self.last, -(-now // self.stride) * self.stride)


def pair(nodes: Busy) -> Pair:
    """The two."""
    return Pair(cast(NodeAnswers, nodes), ONE, OTHER, None)


def nothing(done: int, total: int) -> None:
    """Hear of no progress."""


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_states_at_one_serial(stride: int) -> None:
    """Both are asked for a serial to come, until it is one that both pass through; digests are
    made for that one alone."""
    nodes = Busy(stride=stride)
    assert compare_state(pair(nodes), nothing)["buckets"] == 2
    assert nodes.digests <= 2 * stride
    nodes.wrong = "!"
    with pytest.raises(Difference, match="the state of root/dev demo"):
        compare_state(pair(nodes), nothing)


def test_a_state_that_stands_still() -> None:
    """Who does not follow is told with how far it is."""
    with pytest.raises(Trouble, match="one node stays at serial 50"):
        compare_state(pair(Busy(last=50)), nothing)


def test_pages_that_always_change() -> None:
    """Pages of two states say nothing: neither that nodes are equal nor that they differ."""
    with pytest.raises(Trouble, match="never of one state"):
        compare_pages(pair(Busy()), nothing)


@pytest.mark.parametrize("headers", [True, False])
def test_pages_of_one_state(headers: bool) -> None:
    """Pages of one change, or while nothing is written, are compared."""
    nodes = Busy(step=0, headers=headers)
    assert compare_pages(pair(nodes), nothing) == {"pages": 2}
    nodes.wrong = "!"
    with pytest.raises(Difference, match="the page /root/dev/"):
        compare_pages(pair(nodes), nothing)
