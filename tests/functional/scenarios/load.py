"""Clients that upload and read while faults happen, and record what they see."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException

from attrs import define, field

from tests.builders import Built, legacy_form, wheel
from tests.functional.helpers import ROOT_PASSWORD
from tests.history import History, Operation, Outcome
from tests.processes import Answer, Node, basic, eventually

_INDEX = "root/dev"
_ANSWER_SECONDS = 5.0
_LONGEST_RETRY_SECONDS = 1.0
# Refusals that a client must expect while nodes come and go, or disks are full.
_NOT_NOW = (502, 503, 504, 507)

Target = Callable[[], Node]


@define(eq=False)
class Load:
    """All clients of one test; each is a thread and a session of its own."""

    history: History = field(factory=History)
    surprises: list[object] = field(factory=list)
    level: int = 0
    projects: int = 6
    built: dict[str, Built] = field(factory=dict)
    _crew: list[threading.Thread] = field(factory=list)
    _stop: threading.Event = field(factory=threading.Event)

    def upload_to(self, session: str, target: Target, *, pace: float = 0.05) -> None:
        """A client that uploads one file after the other, each until it is acknowledged."""
        self._begin(session, lambda: self._uploads(session, target, pace))

    def read_from(self, session: str, node: Node, *, pace: float = 0.05) -> None:
        """A client that reads project pages of one node."""
        self._begin(session, lambda: self._reads(session, node, pace))

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
        while not self._stop.is_set():
            number += 1
            built = wheel(f"p{number % self.projects}", f"{number}.0+{local}", size=2_000)
            while not self._stop.is_set():
                wait = self.put(session, target(), built)
                if wait is None:
                    break
                self._stop.wait(wait)
            self._stop.wait(pace)

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
                return None
            # What could not be replicated in time is stored all the same.
            one.outcome = Outcome.UNKNOWN if b"stored" in answer.body else Outcome.REFUSED
            self._expect(answer)
        return min(float(answer.headers.get("retry-after", "1")), _LONGEST_RETRY_SECONDS)

    def _reads(self, session: str, node: Node, pace: float) -> None:
        number = 0
        while not self._stop.wait(pace):
            number += 1
            self.get(session, node, f"p{number % self.projects}")

    def get(self, session: str, node: Node, project: str, minimum: int | None = None) -> Operation:
        """Read a project's page once."""
        one = Operation(session, project, time.monotonic(), minimum=minimum)
        headers = {} if minimum is None else {"X_Pymirror_Min": str(minimum)}
        accept = "application/vnd.pypi.simple.v1+json"
        with self.history.recorded(one):
            try:
                answer = node.get(
                    f"/{_INDEX}/+simple/{project}/", timeout=_ANSWER_SECONDS, accept=accept,
                    **headers,
                )  # fmt: skip
            except (OSError, HTTPException):
                return one
            one.status, one.serial = answer.status, _serial(answer)
            one.outcome = Outcome.OK if answer.status in (200, 404) else Outcome.REFUSED
            if answer.status == 200:
                listed = answer.json()["files"]
                one.last = int(answer.headers["x-pypi-last-serial"])
                one.files = {file["filename"]: file["hashes"]["sha256"] for file in listed}
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


def _serial(answer: Answer) -> int | None:
    value = answer.headers.get("x-pymirror-serial")
    return None if value is None else int(value)
