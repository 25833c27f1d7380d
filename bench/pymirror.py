"""pymirror as a subject: this checkout, by the commands that its users type."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from attrs import define

from bench.client import Address, basic, free_port, get, is_answering, put_json
from bench.processes import ProcessGroup
from bench.subjects import HOSTED, MIRROR, MIRROR_EXPIRY_SECONDS, Target
from cluster.cli.snapshot import make_snapshot

CHECKOUT = Path(__file__).resolve().parent.parent
_START_SECONDS = 60.0
# Snapshots when the bench asks for one; then the log is cut at once.
_BY_HAND = ("--snapshot-every", "0", "--keep-entries", "0", "--keep-days", "0")


@define
class Pymirror:
    """Starts pymirror primaries and replicas with the Python that runs the bench."""

    directory: Path
    processes: ProcessGroup
    projects: tuple[str, ...]
    upstream_url: str
    name: str = "pymirror"
    is_slow: bool = False

    @property
    def _secret(self) -> Path:
        return self.directory / "pymirror-secret"

    def start_primary(self) -> Target:
        """See `System`."""
        target = self._start("primary", ["--no-root-pypi", *_BY_HAND])
        target.process.wait_until(lambda: is_answering(target.address, "/+ready"), _START_SECONDS)
        put_json(target.address, f"/{HOSTED}", self.credentials(target), {"type": "stage"})
        options = {
            "type": "mirror",
            "mirror_url": self.upstream_url,
            "mirror_cache_expiry": MIRROR_EXPIRY_SECONDS,
        }
        put_json(target.address, f"/{MIRROR}", self.credentials(target), options)
        return target

    def start_replica(self, primary: Target, number: int) -> Target:
        """See `System`."""
        options = ["--primary-url", primary.address.url]
        return self._start("replica", options, number)

    def wait_status(self, replica: Target) -> None:
        """See `System`."""
        replica.process.wait_until(
            lambda: is_answering(replica.address, "/+status"), _START_SECONDS
        )

    def serial(self, target: Target) -> int:
        """See `System`."""
        return int(get(target.address, "/+status").json()["serial"])

    def wait_for(self, replica: Target, serial: int) -> None:
        """See `System`. Who is asked again and again has less of the machine for his work."""
        get(replica.address, "/+api", {"X-Pymirror-Min": str(serial)})

    def cut_log(self, primary: Target) -> bool:
        """See `System`. Two snapshots are kept, and the log from the older one on."""
        for number in range(2):
            path = f"/{HOSTED}-{number}"
            put_json(primary.address, path, self.credentials(primary), {"type": "stage"})
            make_snapshot(primary.address.url, "root", "")
        primary.process.wait_until(
            lambda: get(primary.address, "/+status").json()["minimum"] > 0, _START_SECONDS
        )
        return True

    def credentials(self, target: Target) -> Mapping[str, str]:
        """Root's empty password, which loopback may use."""
        return basic("root", "")

    def _start(self, role: str, options: list[str], number: int = 0) -> Target:
        label = f"{self.name} {role}"
        address = Address(free_port())
        state = self.directory / f"pymirror-{role}-{number}"
        twistd = str(Path(sys.executable).parent / "twistd")
        process = self.processes.start(
            label,
            [
                *(twistd, "-n", "--pidfile=", f"pymirror-{role}", "--state-dir", str(state)),
                *("--secret-file", str(self._secret)),
                *("--listen", f"tcp:{address.port}:interface={address.host}", *options),
            ],
            CHECKOUT,
            # Whatever is installed: what is measured is this checkout.
            {"PYTHONPATH": str(CHECKOUT)},
        )
        return Target(label, address, process, self.projects)
