"""A primary on a real socket that keeps to the protocol until a test makes it hostile."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import zstandard
from attrs import define, field

from cluster.files.waiting import Broadcast
from cluster.log.changes import Change, Entry
from cluster.log.checkpoint import Checkpoint, LogSigner
from cluster.log.merkle import Frontier, leaf_hash
from cluster.protocol import (
    EPOCHS_PATH,
    IDENTITY_PATH,
    SECRET_PATH,
    SERIAL_HEADER,
    TAIL_PATH,
    TAIL_TYPE,
    TailPage,
    encode_tail,
    identity_proof,
)
from tests.fakes import KEY, LOG, SIGNER, START, entries
from tests.file_servers import listening

SECRET = b"the secret of the tests' cluster"

Script = Callable[["FakePrimary", Any], None]
"""Answers one poll of the log in its own way."""


@define(eq=False)
class FakePrimary:
    """A log over HTTP; `script` answers polls instead while it is set."""

    log: list[Entry] = field(factory=lambda: entries([START]))
    script: Script | None = None
    identity: Script | None = None
    compressed: bool = False
    starts: list[dict[str, Any]] = field(factory=list)
    """How later epochs began, as `GET /+log/epochs` lists them."""
    blobs: dict[str, bytes] = field(factory=dict)
    """Node-only blobs by name."""
    asked_blobs: list[str] = field(factory=list)
    url: str = ""
    polls: list[Any] = field(factory=list)
    polled: Broadcast = field(factory=Broadcast)
    _held: list[Any] = field(factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakePrimary]:
        """Listen on a free loopback port."""
        async with listening(self._render) as url:
            self.url = url.rstrip("/")
            yield self
            for request in self._held:
                request.channel.forceAbortClient()

    @property
    def is_waited_for(self) -> bool:
        """Whether a poll waits for news."""
        return bool(self._held)

    def record(self, *changes: Change) -> None:
        """Append to the log, and answer the polls that wait for it."""
        self.log += entries(changes, len(self.log) + 1)
        self.answer_held()

    def turn(self, script: Script | None) -> None:
        """Behave like `script` from now on, also to those who wait; None is honest again."""
        self.script = script
        self.answer_held()

    def answer_held(self) -> None:
        """Answer the polls that wait."""
        held, self._held = self._held, []
        for request in held:
            self._answer(request)

    def page(self, start: int, end: int | None = None) -> TailPage:
        """The honest page from `start`."""
        raw = [entry.raw for entry in self.log[start:end]]
        return TailPage(raw, note(self.root_entries(start) + raw))

    def root_entries(self, size: int) -> list[bytes]:
        """The bytes of the first entries."""
        return [entry.raw for entry in self.log[:size]]

    def send(self, request: Any, page: TailPage, serial: int | None = None) -> None:
        """Answer a poll with a page, as a primary at `serial` (its own head) does."""
        request.setHeader(SERIAL_HEADER, str(len(self.log) if serial is None else serial))
        body = encode_tail(page)
        if self.compressed:
            request.setHeader("Content-Encoding", "zstd")
            body = zstandard.compress(body)
        self.send_body(request, body)

    def send_body(self, request: Any, body: bytes, kind: str = TAIL_TYPE) -> None:
        """Answer with these bytes."""
        request.setHeader("Content-Type", kind)
        request.setHeader("Content-Length", str(len(body)))
        request.write(body)
        request.finish()

    def _render(self, request: Any) -> None:
        request.notifyFinish().addErrback(lambda _: self._gone(request))
        if request.path == IDENTITY_PATH.encode():
            (self.identity or FakePrimary.send_identity)(self, request)
        elif request.path == TAIL_PATH.encode():
            self.polls.append(request)
            self._answer(request)
            self.polled.wake()
        elif request.path == EPOCHS_PATH.encode():
            self.send_body(request, orjson.dumps({"epochs": self.starts}), "application/json")
        elif request.path.startswith(SECRET_PATH.encode()):
            self._send_blob(request)
        else:
            request.setResponseCode(500)
            request.finish()

    def _send_blob(self, request: Any) -> None:
        name = request.path.decode().rpartition("/")[2]
        self.asked_blobs.append(name)
        request.setResponseCode(200 if name in self.blobs else 410)
        self.send_body(request, self.blobs.get(name, b""), "application/octet-stream")

    def _gone(self, request: Any) -> None:
        if request in self._held:
            self._held.remove(request)

    def _answer(self, request: Any) -> None:
        if self.script is not None:
            self.script(self, request)
            return
        start = int(request.args[b"from"][0])
        said = base64.urlsafe_b64decode(request.args[b"root"][0])
        if said != root(self.root_entries(start)) or request.args[b"log"][0] != LOG.encode():
            request.setResponseCode(409)
            request.finish()
        elif start == len(self.log) and float(request.args[b"wait"][0]):
            self._held.append(request)
        else:
            self.send(request, self.page(start))

    def send_identity(self, request: Any, secret: bytes = SECRET, key: str = KEY) -> None:
        """Prove which log this is."""
        nonce = request.args[b"nonce"][0].decode()
        proof = identity_proof(secret, nonce, LOG, key)
        body = orjson.dumps({"log": LOG, "key": key, "proof": proof})
        self.send_body(request, body, "application/json")


def root(raw: Sequence[bytes]) -> bytes:
    """The Merkle root of these entries."""
    return Frontier().extended(leaf_hash(entry) for entry in raw).root


def note(raw: Sequence[bytes], signer: LogSigner = SIGNER) -> bytes:
    """A signed checkpoint for a log of these entries."""
    return signer.sign(Checkpoint(signer.name, len(raw), root(raw)))
