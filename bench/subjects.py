"""What is common to everything measured: one server (`Target`), a system of them (`System`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urljoin, urlsplit

from attrs import frozen

from bench.client import Address, get
from bench.data import BIG_PROJECT, SIZED_PROJECT, big_filenames
from bench.processes import ServerProcess

HOSTED = "root/bench"
MIRROR = "root/bench-mirror"
MIRROR_EXPIRY_SECONDS = 86_400
JSON = {"Accept": "application/vnd.pypi.simple.v1+json"}


@frozen
class Target:
    """One running server. `name` is unique in a run; `projects` are the small ones it has."""

    name: str
    address: Address
    process: ServerProcess
    projects: tuple[str, ...]


class System(Protocol):
    """A kind of index server that has a primary and replicas."""

    @property
    def name(self) -> str:
        """Short name, e.g. ``devpi``."""

    @property
    def projects(self) -> tuple[str, ...]:
        """The small projects of its share of the data set."""

    @property
    def is_slow(self) -> bool:
        """Whether it gets the smaller share of uploads."""

    def start_primary(self) -> Target:
        """Start a fresh primary with both indexes; returns when it is ready.

        Raises BenchError.
        """

    def start_replica(self, primary: Target, number: int) -> Target:
        """Start a replica on an empty state folder of its own; does not wait for it."""

    def wait_status(self, replica: Target) -> None:
        """Return when a started replica answers its status; raises BenchError."""

    def serial(self, target: Target) -> int:
        """The serial that a server has applied."""

    def wait_for(self, replica: Target, serial: int) -> None:
        """Wait a while for a serial, if the server can tell when it is there, else not at all."""

    def cut_log(self, primary: Target) -> bool:
        """Leave fresh replicas nothing but a snapshot to start from; False where there is none."""

    def credentials(self, target: Target) -> Mapping[str, str]:
        """Headers that let root write."""


def page_path(project: str) -> str:
    """Path of a project page; the big project is in the mirror index."""
    index = MIRROR if project == BIG_PROJECT else HOSTED
    return f"/{index}/+simple/{project}/"


def file_path(address: Address, project: str, filename: str) -> str:
    """Path of a distribution file, as its project page gives it; raises BenchError."""
    page = get(address, page_path(project), JSON).json()
    url = next(f["url"] for f in page["files"] if f["filename"] == filename)
    return _absolute(page_path(project), url.partition("#")[0])


def has_big_project(address: Address, files: int) -> bool:
    """Whether the big project's page lists all its files."""
    page = get(address, page_path(BIG_PROJECT), JSON).json()
    wanted = {filename for _, filename in big_filenames(files)}
    return wanted == {file["filename"] for file in page["files"]}


def sized_filenames(large: bool) -> str:
    """The file of 20 kB, or the large one."""
    return f"{SIZED_PROJECT.replace('-', '_')}-{2 if large else 1}.0-py3-none-any.whl"


def _absolute(base: str, url: str) -> str:
    return urlsplit(urljoin(base, url)).path
