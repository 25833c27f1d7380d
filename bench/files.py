"""Distribution files: MB/s of a large one, requests per second of one of 20 kB."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping

from attrs import frozen

from bench.client import TIMEOUT_SECONDS, BenchError, now
from bench.data import SIZED_PROJECT
from bench.load import raw_get
from bench.pages import measure as measure_load
from bench.settings import Settings
from bench.subjects import Target, file_path, sized_filenames

_BUFFER_BYTES = 1 << 20


@frozen
class FileCase:
    """A file and the number of connections that download it."""

    name: str
    large: bool
    connections: int


CASES = (
    FileCase("50 MB, 1 connection", True, 1),
    FileCase("50 MB, 4 connections", True, 4),
    FileCase("20 kB, 16 connections", False, 16),
)


def prepare(target: Target, case: FileCase) -> list[bytes]:
    """The request of a case for one server; raises BenchError if the file is not there."""
    path = file_path(target.address, SIZED_PROJECT, sized_filenames(case.large))
    return [raw_get(target.address, path, {"Accept": "*/*"})]


def measure(
    target: Target, case: FileCase, requests: list[bytes], settings: Settings
) -> Mapping[str, float]:
    """Download for some seconds; `mb_rate` in MB/s, for the small file as in `pages`."""
    if not case.large:
        return measure_load(target, requests, settings)
    before = target.process.cpu_seconds()
    received, seconds = _download(target, requests[0], case.connections, settings.load_seconds)
    cpu = target.process.cpu_seconds() - before
    downloads = received / settings.large_bytes
    return {"mb_rate": received / seconds / 1e6, "cpu": cpu / downloads, "errors": 0.0}


def _download(
    target: Target, request: bytes, connections: int, seconds: float
) -> tuple[int, float]:
    """Download again and again and discard; returns bytes and seconds.

    Bodies go to a reused buffer with the interpreter's lock released, so that the client costs
    little more than the copy out of the kernel (wrk reads 8 kB at a time).
    """
    received: list[int] = []
    errors: list[Exception] = []
    start = now()

    def work() -> None:
        try:
            received.append(_read_until(target, request, start + seconds))
        except Exception as error:
            errors.append(error)

    _in_threads(work, connections)
    if errors:
        raise BenchError(f"download failed: {errors[0]}") from errors[0]
    return sum(received), now() - start


def _read_until(target: Target, request: bytes, deadline: float) -> int:
    """Download on one connection until the deadline has passed, the last file to its end."""
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    total = 0
    with socket.create_connection(
        (target.address.host, target.address.port), TIMEOUT_SECONDS
    ) as connection:
        while total == 0 or now() < deadline:
            connection.sendall(request)
            total += _read_answer(connection, buffer)
    return total


def _read_answer(connection: socket.socket, buffer: memoryview) -> int:
    """Read one answer; returns the length of its body. Raises BenchError unless it is a 200."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(4096)
        if not part:
            raise BenchError("connection closed within the headers")
        head += part
    head, _, rest = head.partition(b"\r\n\r\n")
    if head.split(b" ", 2)[1] != b"200":
        raise BenchError(f"answer {head[:40]!r}")
    lines = head.lower().split(b"\r\n")
    length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
    missing = length - len(rest)
    while missing:
        count = connection.recv_into(buffer, min(missing, _BUFFER_BYTES))
        if not count:
            raise BenchError(f"connection closed, {missing} bytes missing")
        missing -= count
    return length


def _in_threads(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
