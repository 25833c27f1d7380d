"""Clients that leave while a thread works on their download."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers

from cluster.web.filebody import send_file_at


@define
class HeldThreads:
    """Runs each function when told to, as a busy pool does."""

    waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = field(factory=list)

    async def run(self, f: Callable[..., Any], *args: Any) -> Any:
        done: Deferred[Any] = Deferred()
        self.waiting.append((done, lambda: f(*args)))
        return await done

    def work(self) -> None:
        while self.waiting:
            done, call = self.waiting.pop(0)
            done.callback(call())


@define
class Request:
    """A GET whose client can leave."""

    method: bytes = b"GET"
    uri: bytes = b"/file"
    requestHeaders: Headers = field(factory=Headers)
    left: Deferred[None] = field(factory=Deferred)
    transport: Any = None

    def notifyFinish(self) -> Deferred[None]:
        return self.left


def test_a_client_that_leaves_while_its_file_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Klein cancels the answer; the descriptor that the thread then opens is closed again."""
    path = tmp_path / "file"
    path.write_bytes(b"bytes")
    opened: list[int] = []
    real_open = os.open

    def noting_open(*args: Any) -> int:
        opened.append(real_open(*args))
        return opened[-1]

    monkeypatch.setattr(os, "open", noting_open)
    threads, request = HeldThreads(), Request()
    answer = Deferred.fromCoroutine(
        send_file_at(cast(Any, request), path, 5, {}, cast(Any, threads))
    )
    answer.addErrback(lambda _: None)
    answer.cancel()
    request.left.errback(ConnectionError())
    threads.work()
    assert len(opened) == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])
