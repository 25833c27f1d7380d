"""Uploads: many connections, each with its share of the files, through the legacy API."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Mapping

from attrs import define

from bench.client import (
    Address,
    Answer,
    BenchError,
    Connection,
    get,
    now,
    upload_body,
    upload_headers,
)
from bench.data import BIG_PROJECT, DataFile, project_files, sized_files
from bench.settings import Settings
from bench.subjects import HOSTED, System, Target, has_big_project, page_path


@define
class Uploader:
    """Uploads to one server; `credentials` are the headers that let it write."""

    address: Address
    credentials: Mapping[str, str]

    def upload(self, connection: Connection, body: bytes) -> Answer:
        """Send one encoded form; raises BenchError unless it is taken."""
        answer = connection.request("POST", f"/{HOSTED}/", upload_headers(self.credentials), body)
        if answer.status not in (200, 201):
            raise BenchError(f"upload answered {answer.status}: {answer.body[:300]!r}")
        return answer

    def upload_all(
        self, files: Iterable[DataFile], connections: int, done: Callable[[], None] | None = None
    ) -> tuple[int, float]:
        """Upload files over parallel connections; returns their number and the seconds.

        The forms are encoded before the clock starts. `done` is called after each upload. Raises
        the first error of any connection.
        """
        bodies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        for file in files:
            bodies.put(upload_body(file))
        count = bodies.qsize()
        errors: list[Exception] = []

        def work() -> None:
            try:
                with Connection(self.address) as connection:
                    while not errors:
                        self.upload(connection, bodies.get_nowait())
                        if done is not None:
                            done()
            except queue.Empty:
                return
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(connections)]
        start = now()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return count, now() - start


def data_set(system: System, settings: Settings) -> list[DataFile]:
    """The files that a system hosts: its projects' and the two sized ones."""
    return [
        *project_files(system.projects, settings.releases),
        *sized_files(settings.large_bytes),
    ]


def fill(
    system: System, primary: Target, settings: Settings, done: Callable[[], None]
) -> tuple[int, float]:
    """Bring the data set into a primary; returns the number of uploads and their seconds.

    The big project comes through the mirror index: one look at its page fetches it.
    """
    uploader = Uploader(primary.address, system.credentials(primary))
    files = data_set(system, settings)
    count, seconds = uploader.upload_all(files, settings.fill_connections, done)
    get(primary.address, page_path(BIG_PROJECT))
    if not has_big_project(primary.address, settings.big_files):
        raise BenchError(f"{primary.name} does not show all files of {BIG_PROJECT}")
    return count, seconds
