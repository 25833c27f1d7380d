"""Load on a server: closed loop, keep-alive, a list of requests in rotation."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from bench.client import Address, BenchError

WRK_HINT = "wrk is not installed (Debian: apt-get install wrk): a slower generator is used"
SUMMARY = "bench-summary "
_SCRIPT = """\
local requests = {
%s
}
local at = 0
function request()
   at = at %% #requests + 1
   return requests[at]
end
function done(summary, latency, _)
   local e = summary.errors
   io.write(string.format(
      '%s{"requests":%%d,"seconds":%%f,"bytes":%%d,"errors":%%d,"p50":%%f,"p99":%%f}\\n',
      summary.requests, summary.duration / 1e6, summary.bytes,
      e.connect + e.read + e.write + e.status + e.timeout,
      latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
end
"""


@frozen
class LoadResult:
    """What a generator saw: complete answers, seconds, bytes received, errors, latencies (s)."""

    requests: int
    seconds: float
    bytes: int
    errors: int
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.requests / self.seconds


def has_wrk() -> bool:
    """Whether the better generator is installed."""
    return shutil.which("wrk") is not None


def raw_get(address: Address, path: str, headers: Mapping[str, str]) -> bytes:
    """A GET as its bytes, which both generators send as they are."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {address.host}:{address.port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def run_load(
    address: Address, requests: Sequence[bytes], connections: int, seconds: float
) -> LoadResult:
    """Load a server for some seconds; raises BenchError if the generator fails."""
    if has_wrk():
        return _run_wrk(address, requests, connections, seconds)
    return _run_fallback(address, requests, connections, seconds)


def _run_wrk(
    address: Address, requests: Sequence[bytes], connections: int, seconds: float
) -> LoadResult:
    table = "\n".join(f"   {lua_string(request)}," for request in requests)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT % (table, SUMMARY))
        script.flush()
        # wrk takes whole seconds; a page of seconds (devpi, 2,000 files) is late, not an error.
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        command += ["--timeout", "60s", "-s", script.name, address.url]
        return _summary(command, seconds)


def _run_fallback(
    address: Address, requests: Sequence[bytes], connections: int, seconds: float
) -> LoadResult:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as job:
        json.dump(
            {
                "host": address.host,
                "port": address.port,
                "requests": [request.decode("latin-1") for request in requests],
                "connections": connections,
                "seconds": seconds,
            },
            job,
        )
        job.flush()
        return _summary([sys.executable, "-m", "bench.fallback", job.name], seconds)


def _summary(command: list[str], seconds: float) -> LoadResult:
    """Run a generator and read its one line of figures."""
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=seconds + 120, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{command[0]} did not end") from error
    for line in done.stdout.splitlines():
        if line.startswith(SUMMARY):
            return LoadResult(**json.loads(line.removeprefix(SUMMARY)))
    raise BenchError(f"{command[0]} failed: {(done.stderr or done.stdout)[-500:]}")


def lua_string(text: bytes) -> str:
    """A Lua string literal; every byte that is not plain is written by its number."""
    plain = (chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03}" for b in text)
    return '"' + "".join(plain) + '"'
