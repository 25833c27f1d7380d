"""A small load generator for machines without wrk: ``python -m bench.fallback JOB.json``."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import Any

from attrs import Factory, define

from bench.load import SUMMARY
from bench.results import percentile


@define
class _Counts:
    bytes: int = 0
    errors: int = 0
    latencies: list[float] = Factory(list)


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, int]:
    """Read one answer; returns its status and its length in bytes."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:") and status != 304:
            length = int(line.partition(b":")[2])
    await reader.readexactly(length)
    return status, len(head) + length


async def _client(job: dict[str, Any], requests: Any, counts: _Counts, deadline: float) -> None:
    """One connection: ask, read, ask again, until the deadline."""
    reader, writer = await asyncio.open_connection(job["host"], job["port"], limit=1 << 20)
    try:
        while (start := time.perf_counter()) < deadline:
            writer.write(next(requests))
            status, size = await _read_answer(reader)
            if status >= 400:
                counts.errors += 1
            counts.bytes += size
            counts.latencies.append(time.perf_counter() - start)
    except (OSError, asyncio.IncompleteReadError):
        counts.errors += 1
    finally:
        writer.close()


async def _run(job: dict[str, Any]) -> dict[str, float]:
    counts = _Counts()
    requests = cycle([text.encode("latin-1") for text in job["requests"]])
    start = time.perf_counter()
    deadline = start + job["seconds"]
    clients = (_client(job, requests, counts, deadline) for _ in range(job["connections"]))
    await asyncio.gather(*clients)
    latencies = counts.latencies or [0.0]
    return {
        "requests": len(counts.latencies),
        "seconds": time.perf_counter() - start,
        "bytes": counts.bytes,
        "errors": counts.errors,
        "p50": percentile(latencies, 50),
        "p99": percentile(latencies, 99),
    }


if __name__ == "__main__":
    figures = asyncio.run(_run(json.loads(Path(sys.argv[1]).read_text())))
    sys.stdout.write(f"{SUMMARY}{json.dumps(figures)}\n")
