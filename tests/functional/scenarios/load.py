"""Clients that upload and read while faults happen, and record what they see."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from urllib.parse import quote

from attrs import define, field

from tests.builders import Built, legacy_form, wheel
from tests.functional.helpers import ROOT_PASSWORD
from tests.history import Action, History, Operation, Outcome, fact
from tests.processes import Answer, Node, basic, eventually

_INDEX = "root/dev"
_ANSWER_SECONDS = 5.0
_LONGEST_RETRY_SECONDS = 1.0
# Refusals that a client must expect while nodes come and go, or disks are full.
_NOT_NOW = (502, 503, 504, 507)
_GONE = (404, 410)
# After so many uploads a client yanks or deletes, in turn, one of its earlier files.
_UPLOADS_A_REMOVAL = 4
_JSON = "application/vnd.pypi.simple.v1+json"

Target = Callable[[], Node]


@define(eq=False)
class Load:
    """All clients of one test; each is a thread and a session of its own."""

    history: History = field(factory=History)
    surprises: list[object] = field(factory=list)
    level: int = 0
    projects: int = 6
    built: dict[str, Built] = field(factory=dict)
    newest: tuple[int, int] = (0, 0)
    """The last epoch and serial of what was acknowledged."""
    _crew: list[threading.Thread] = field(factory=list)
    _stop: threading.Event = field(factory=threading.Event)

    def upload_to(self, session: str, target: Target, *, pace: float = 0.05) -> None:
        """A client that uploads one file after the other, each until it is acknowledged, and
        yanks or deletes some that it uploaded before."""
        self._begin(session, lambda: self._uploads(session, target, pace))

    def read_from(self, session: str, node: Node, *, pace: float = 0.05) -> None:
        """A client that reads project pages of one node; and one that wants to see all that was
        acknowledged to anybody so far, and downloads what it sees."""
        self._begin(session, lambda: self._reads(session, node, pace))
        self._begin(f"{session}-min", lambda: self._downloads(f"{session}-min", node, 3 * pace))

    def _begin(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._crew.append(thread)
        thread.start()

    def stop(self) -> None:
        """Let all clients finish what they are at."""
        self._stop.set()
        for thread in self._crew:
            thread.join(30)
            assert not thread.is_alive(), f"{thread.name} does not end"
        self._crew.clear()
        self._stop.clear()

    @contextmanager
    def until(self) -> Iterator[None]:
        """Clients of the block end with it."""
        try:
            yield
        finally:
            self.stop()

    def wait_acked(self, count: int, seconds: float = 20.0) -> None:
        """Wait until so many more uploads are acknowledged."""
        goal = len(self.history.acked()) + count

        def enough() -> bool:
            assert self.surprises == [], self.surprises[:3]
            return len(self.history.acked()) >= goal

        eventually(enough, seconds, f"{count} more uploads")

    def _uploads(self, session: str, target: Target, pace: float) -> None:
        number, local = 0, session.replace("-", ".")
        earlier: list[Built] = []
        while not self._stop.is_set():
            number += 1
            built = wheel(f"p{number % self.projects}", f"{number}.0+{local}", size=2_000)
            self._until_done(lambda built=built: self.put(session, target(), built))  # type: ignore[misc]
            earlier.append(built)
            if number % _UPLOADS_A_REMOVAL == 0:
                action = Action.YANK if number % (2 * _UPLOADS_A_REMOVAL) else Action.DELETE
                self._removes(session, target, action, earlier.pop(0))
            self._stop.wait(pace)

    def _removes(self, session: str, target: Target, action: Action, built: Built) -> None:
        tries = 0

        def once() -> float | None:
            nonlocal tries
            tries += 1
            return self.remove(session, target(), built, action, again=tries > 1)

        self._until_done(once)

    def _until_done(self, once: Callable[[], float | None]) -> None:
        while not self._stop.is_set():
            wait = once()
            if wait is None:
                return
            self._stop.wait(wait)

    def put(self, session: str, node: Node, built: Built) -> float | None:
        """Upload once; None when it is acknowledged, else in how many seconds to try again."""
        self.built[built.filename] = built
        one = Operation(
            session, built.name, time.monotonic(), built.filename, built.sha256, level=self.level
        )
        with self.history.recorded(one):
            try:
                answer = send(node, built)
            except (OSError, HTTPException):
                return _LONGEST_RETRY_SECONDS / 4
            one.status, one.serial = answer.status, _serial(answer)
            if answer.status == 200:
                one.outcome = Outcome.OK
                one.changed = b"already" not in answer.body
                self.newest = max(self.newest, _position(answer))
                return None
            # What could not be replicated in time is stored all the same.
            one.outcome = Outcome.UNKNOWN if b"stored" in answer.body else Outcome.REFUSED
            self._expect(answer)
        return _pause(answer)

    def remove(
        self, session: str, node: Node, built: Built, action: Action, *, again: bool = False
    ) -> float | None:
        """Yank or delete a file once, as `put`; what was tried before may have been done."""
        one = Operation(
            session, built.name, time.monotonic(), built.filename, level=self.level, action=action
        )
        path = _path(built)
        method, path, body = (
            ("DELETE", path, None) if action is Action.DELETE
            else ("POST", f"{path}/+yank", b'{"reason": "by a test"}')
        )  # fmt: skip
        headers = {**basic("root", ROOT_PASSWORD), "Content-Type": "application/json"}
        with self.history.recorded(one):
            try:
                answer = node.request(
                    method, path, body=body, headers=headers, timeout=_ANSWER_SECONDS
                )
            except (OSError, HTTPException):
                return _LONGEST_RETRY_SECONDS / 4
            one.status, one.serial = answer.status, _serial(answer)
            one.changed = answer.status == 200 and (action is Action.DELETE or not again)
            if answer.status == 200 or (answer.status in _GONE and action is Action.DELETE):
                one.outcome = Outcome.OK
                self.newest = max(self.newest, _position(answer))
                return None
            one.outcome = Outcome.UNKNOWN if b"stored" in answer.body else Outcome.REFUSED
            if answer.status in _GONE:
                return None  # the upload was taken back
            self._expect(answer)
        return _pause(answer)

    def _reads(self, session: str, node: Node, pace: float) -> None:
        number = 0
        while not self._stop.wait(pace):
            number += 1
            self.get(session, node, f"p{number % self.projects}")

    def _downloads(self, session: str, node: Node, pace: float) -> None:
        number, seen = 0, 0
        while not self._stop.wait(pace):
            number += 1
            epoch, serial = self.newest
            minimum = (epoch, max(seen, serial))
            page = self.get(session, node, f"p{number % self.projects}", minimum)
            if page.outcome is Outcome.OK:
                seen = max(seen, page.serial or 0)
            # Others may have uploaded too.
            names = sorted(name for name in page.files or () if name in self.built)
            if names:
                self.download(session, node, page.project, names[number % len(names)])

    def download(self, session: str, node: Node, project: str, filename: str) -> Operation:
        """Fetch a file of a page once."""
        one = Operation(
            session, project, time.monotonic(), filename, action=Action.DOWNLOAD
        )  # fmt: skip
        with self.history.recorded(one):
            try:
                answer = node.get(_path(self.built[filename]), timeout=_ANSWER_SECONDS)
            except (OSError, HTTPException):
                return one
            one.status = answer.status
            if answer.status == 200:
                one.outcome, one.sha256 = Outcome.OK, hashlib.sha256(answer.body).hexdigest()
            elif answer.status in _GONE:
                one.outcome = Outcome.OK
            else:
                one.outcome = Outcome.REFUSED
                self._expect(answer)
        return one

    def get(
        self, session: str, node: Node, project: str, minimum: tuple[int, int] | None = None
    ) -> Operation:
        """Read a project's page once, of a state that includes an epoch and serial."""
        one = Operation(session, project, time.monotonic())
        headers = {}
        if minimum is not None:
            one.minimum = minimum[1]
            headers["X_Pymirror_Min"] = "{}.{}".format(*minimum)
        with self.history.recorded(one):
            try:
                answer = node.get(
                    f"/{_INDEX}/+simple/{project}/", timeout=_ANSWER_SECONDS, accept=_JSON,
                    **headers,
                )  # fmt: skip
            except (OSError, HTTPException):
                return one
            one.status, one.serial = answer.status, _serial(answer)
            one.outcome = Outcome.OK if answer.status in (200, 404) else Outcome.REFUSED
            if answer.status == 200:
                listed = answer.json()["files"]
                one.last = int(answer.headers["x-pypi-last-serial"])
                one.files = {
                    file["filename"]: fact(file["hashes"]["sha256"], bool(file.get("yanked")))
                    for file in listed
                }
            elif answer.status == 404:
                one.files = {}
            else:
                self._expect(answer)
        return one

    def _expect(self, answer: Answer) -> None:
        if answer.status not in _NOT_NOW:
            self.surprises.append(answer)
        if answer.status == 503 and "retry-after" not in answer.headers:
            self.surprises.append(answer)


def send(node: Node, built: Built) -> Answer:
    """Upload once, unrecorded."""
    content_type, body = legacy_form(built)
    headers = {**basic("root", ROOT_PASSWORD), "Content-Type": content_type}
    return node.request("POST", f"/{_INDEX}/", body=body, headers=headers, timeout=_ANSWER_SECONDS)


def _path(built: Built) -> str:
    return f"/{_INDEX}/+f/{built.sha256[:3]}/{built.sha256[3:16]}/{quote(built.filename)}"


def _pause(answer: Answer) -> float:
    return min(float(answer.headers.get("retry-after", "1")), _LONGEST_RETRY_SECONDS)


def _position(answer: Answer) -> tuple[int, int]:
    epoch, _, serial = answer.headers.get("x-pymirror-position", "0.0").partition(".")
    return int(epoch), int(serial)


def _serial(answer: Answer) -> int | None:
    value = answer.headers.get("x-pymirror-serial")
    return None if value is None else int(value)
