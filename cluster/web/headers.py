"""Headers of every answer: how far this node is, and what devpi-client looks for."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from cluster.protocol import SERIAL_HEADER
from cluster.version import __version__

_DEVPI_SERIAL = b"X-DEVPI-SERIAL"


@define
class NodeHeaders:
    """Makes them for the node `uuid`, which follows or owns the log with the uuid `log`."""

    uuid: str
    log: Callable[[], str | None]
    _fixed: dict[bytes, bytes] = field(factory=dict)

    def fixed(self) -> dict[bytes, bytes]:
        """Those that do not change while the node runs (devpi-api §1)."""
        if not self._fixed:
            log = self.log()
            headers = {
                "X-DEVPI-API-VERSION": "2",
                "X-DEVPI-SERVER-VERSION": __version__,
                "X-DEVPI-UUID": self.uuid,
                "X-DEVPI-MASTER-UUID": log or "",
                "X-DEVPI-PRIMARY-UUID": log or "",
            }
            made = {name.encode(): value.encode() for name, value in headers.items()}
            if log is None:  # a replica that has not met its primary yet
                return made
            self._fixed = made
        return self._fixed

    def at(self, serial: int) -> dict[bytes, bytes]:
        """All of them, at a serial."""
        return {**self.fixed(), **serial_headers(serial)}


def serial_headers(serial: int) -> dict[bytes, bytes]:
    """Those that say up to which serial an answer is complete."""
    digits = b"%d" % serial
    return {SERIAL_HEADER.encode(): digits, _DEVPI_SERIAL: digits}
