"""Several hosts with addresses of their own on one Linux machine, and faults between them.

A host is a network namespace with one interface in a private subnet that exists nowhere else;
hosts reach each other and nothing else. While a lab is up, the machine's own namespace has an
"unreachable" route for that subnet: a program started outside by mistake sends nothing out.
Needs root and the `ip` and `nsenter` commands; see `why_not`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import secrets
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from attrs import define, field

from tests.netswitch import Switch

_NAMESPACES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_LABEL = "pymirrorlab"
_PACKAGES = "apt-get install iproute2 util-linux"
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """A command that builds or takes down a lab failed."""


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@cache
def why_not() -> str | None:
    """Why no lab can be built here, with what helps; None if one can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("nsenter") is None:
        return f"no `ip` or `nsenter` command: {_PACKAGES}"
    if not Path("/dev/net/tun").exists():
        return "the kernel has no /dev/net/tun"
    name = f"{_LABEL}{secrets.token_hex(3)}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except LabError as error:
        return f"network namespaces are not permitted: {error}"
    return None


@define(eq=False)
class Lab:
    """Hosts by name (short, lower case); a context manager."""

    hosts: Sequence[str]
    _id: str = field(factory=lambda: f"{_LABEL}{os.getpid()}x{secrets.token_hex(2)}")
    _subnet: str = ""
    _made: list[str] = field(factory=list)
    _switch: Switch | None = None

    def __enter__(self) -> Self:
        _sweep()
        try:
            self._claim_subnet()
            for host in self.hosts:
                _ip("netns", "add", self._namespace(host))
                self._made.append(self._namespace(host))
            self._switch = Switch(
                {host: self._open_tap(host) for host in self.hosts},
                {host: self._mac(host) for host in self.hosts},
            )
            for host in self.hosts:
                self._set_up(host)
            self._switch.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything; the programs inside must have ended."""
        if self._switch is not None:
            self._switch.stop()
            self._switch = None
        while self._made:
            _ip("netns", "del", self._made.pop())
        if self._subnet:
            _ip("route", "del", "unreachable", f"{self._subnet}.0/24")
            self._subnet = ""

    def address(self, host: str) -> str:
        """The host's address."""
        return f"{self._subnet}.{self.hosts.index(host) + 1}"

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        """The command line that runs a command in a host, as the same process."""
        return ["nsenter", f"--net={_NAMESPACES / self._namespace(host)}", "--", *command]

    @contextlib.contextmanager
    def inside(self, host: str) -> Iterator[None]:
        """This thread, and threads and processes that it starts, are in the host."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(_NAMESPACES / self._namespace(host))
            try:
                yield
            finally:
                _set_namespace(home)
        finally:
            os.close(home)

    # Faults.

    def cut(self, one: str, other: str, *, one_way: bool = False) -> None:
        """Drop all frames from `one` to `other`, without a word, and back unless `one_way`."""
        self._set(one, other, is_cut=True)
        if not one_way:
            self._set(other, one, is_cut=True)

    def isolate(self, host: str, *, but: Sequence[str] = ()) -> None:
        """Cut a host off from all others, `but` some."""
        for other in self.hosts:
            if other != host and other not in but:
                self.cut(host, other)

    def shape(
        self, one: str, other: str, *, delay_ms: float = 0, jitter_ms: float = 0, loss: float = 0,
        kbit: float = 0,
    ) -> None:  # fmt: skip
        """Make the way between two hosts slow or lossy, in both directions.

        `delay_ms` ± `jitter_ms` each way; `loss` from 0 to 1; at most `kbit` in a second.
        """
        for pair in ((one, other), (other, one)):
            self._set(
                *pair, delay=delay_ms / 1_000, jitter=jitter_ms / 1_000, loss=loss, rate=kbit * 125
            )

    def heal(self) -> None:
        """Everything passes again, at once."""
        for pair in self._links:
            self._set(*pair, is_cut=False, delay=0.0, jitter=0.0, loss=0.0, rate=0.0)

    @property
    def _links(self) -> list[tuple[str, str]]:
        return [(a, b) for a in self.hosts for b in self.hosts if a != b]

    def _set(self, one: str, other: str, **values: float) -> None:
        assert self._switch is not None
        with self._switch.lock:
            for name, value in values.items():
                setattr(self._switch.links[one, other], name, value)

    # Building.

    def _namespace(self, host: str) -> str:
        return f"{self._id}-{host}"

    def _mac(self, host: str) -> bytes:
        return bytes([2, 0x50, 0x4D, 0, 0, self.hosts.index(host) + 1])

    def _claim_subnet(self) -> None:
        for number in range(256):
            subnet = f"10.213.{(os.getpid() + number) % 256}"
            if _ip("route", "show", "table", "all", "root", f"{subnet}.0/24").strip():
                continue
            with contextlib.suppress(LabError):  # another lab was quicker
                _ip("route", "add", "unreachable", f"{subnet}.0/24", "metric", str(os.getpid()))
                self._subnet = subnet
                return
        raise LabError("every subnet of 10.213.0.0/16 is in use")

    def _open_tap(self, host: str) -> int:
        opened: list[int | BaseException] = []

        def work() -> None:  # a namespace is a thread's: one of its own leaves ours alone
            try:
                _enter(_NAMESPACES / self._namespace(host))
                fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                wish = struct.pack("16sH22x", b"eth0", _IFF_TAP | _IFF_NO_PI)
                fcntl.ioctl(fd, _TUNSETIFF, wish)
                opened.append(fd)
            except BaseException as error:  # raised again below
                opened.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        (result,) = opened
        if isinstance(result, BaseException):
            raise result
        return result

    def _set_up(self, host: str) -> None:
        here = ("-n", self._namespace(host))
        _ip(*here, "link", "set", "lo", "up")
        # Fewer, larger frames: Python moves each one.
        mac = self._mac(host).hex(":")
        _ip(*here, "link", "set", "eth0", "address", mac, "mtu", "16000")
        _ip(*here, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
        _ip(*here, "link", "set", "eth0", "up")
        for other in self.hosts:
            if other != host:  # no ARP that could be lost
                _ip(
                    *here, "neigh", "replace", self.address(other), "lladdr",
                    self._mac(other).hex(":"), "dev", "eth0", "nud", "permanent",
                )  # fmt: skip


def _sweep() -> None:
    """Remove namespaces and routes of labs whose process was killed."""
    names = sorted(_NAMESPACES.glob(f"{_LABEL}*x*-*")) if _NAMESPACES.exists() else []
    for path in names:
        if not Path(f"/proc/{path.name.removeprefix(_LABEL).partition('x')[0]}").exists():
            _ip("netns", "del", path.name)
    for line in _ip("route", "show", "type", "unreachable").splitlines():
        words = line.split()
        if words[1].startswith("10.213.") and not Path(f"/proc/{words[-1]}").exists():
            _ip("route", "del", "unreachable", words[1], "metric", words[-1])


def _enter(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set_namespace(fd)
    finally:
        os.close(fd)


def _set_namespace(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
