"""The power goes off at each call by which a replica keeps an entry or a file: what it has told of
is there, whole, and it comes to its primary's log again.
"""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

import pytest
from attrs import define, field

from cluster.promotion import opened, standing
from tests.builders import Built
from tests.functional.crashing import INDEX, SOAK, Attempts, check_folder, killed_at
from tests.functional.cutting import NEVER, Site, check_kept, check_store, recorded_in, site
from tests.functional.helpers import ROOT_PASSWORD, check_same_roots
from tests.processes import Node, eventually, http
from tests.strace import Point, require_strace

pytestmark = [pytest.mark.functional, pytest.mark.slow, pytest.mark.timeout(3_600 if SOAK else 400)]


@pytest.fixture(autouse=True)
def _strace() -> None:
    require_strace()


@define
class Claims:
    """What a replica has said of the files here: to its primary, and to who asks for its status."""

    primary: Node
    replica: Node
    attempts: Attempts
    greatest: int = 0
    serials: dict[int, Built] = field(factory=dict)

    def upload(self) -> tuple[int, Built]:
        """Upload to the primary; the serial, and what has it."""
        built = self.attempts.new()
        answer = self.attempts.upload(built)
        assert answer is not None
        assert answer.status == 200
        serial = int(answer.headers["x-pymirror-serial"])
        self.serials[serial] = built
        return serial, built

    def look(self, serial: int) -> bool:
        """Note what the replica's status says now; whether it is all, or the last word."""
        try:
            files = self.replica.status()["in_sync"]["files_position"]
        except (OSError, HTTPException):
            return not self.replica.running
        self.greatest = max(self.greatest, files)
        return bool(files >= serial)

    def check(self) -> None:
        """R8, R9: whatever was told of is here; call when the replica is stopped."""
        here = [built for serial, built in self.serials.items() if serial <= self.greatest]
        assert here
        for built in here:
            check_kept(self.replica.state_dir, [built.data, built.metadata])


def _pair(where: Site, mode: str, **options: int) -> Claims:
    primary = where.beside.primary(root_password=ROOT_PASSWORD)
    primary.put_index(INDEX, ROOT_PASSWORD, type="stage", **options)
    more = ("--primary-url", primary.url, "--files", mode)
    replica = where.node("replica", "pymirror-replica", *more).start()
    return Claims(primary, replica, Attempts(primary))


def _cut(where: Site, claims: Claims) -> None:
    """The replica is dead and the power goes off: what it told of is there, and all is whole."""
    folder = claims.replica.state_dir
    claims.replica.kill()
    row = claims.primary.status()["replicas"][0]
    claims.greatest = max(claims.greatest, row["files_position"])
    where.disk.cut()
    check_folder(folder, whole=False)
    check_store(folder)
    with opened(folder) as engine:
        assert standing(engine).serial >= row["position"]


def test_files_full(tmp_path: Path) -> None:
    """A replica that keeps all files never told of one, by its status or to its primary, that a
    power cut takes away; nor its primary of such an entry."""
    with site(tmp_path) as where:
        claims = _pair(where, "full")
        replica = claims.replica

        def arrive() -> None:
            serial, _ = claims.upload()
            eventually(lambda: claims.look(serial), 10.0, "the file is told of")

        arrive()
        found = recorded_in(replica.state_dir, replica, where.trace, arrive, 10)
        kills = 0
        for point in [*found, NEVER]:
            kills += killed_at(replica, point, where.trace, arrive)
            _cut(where, claims)
            claims.check()
            replica.start()
            check_same_roots([claims.primary, replica])
            head = claims.primary.status()["serial"]
            eventually(lambda of=head: claims.look(of), 10.0, "all files are here")  # type: ignore[misc]
            claims.attempts.check(replica)
        assert kills >= len(found) // 2, "the points are not where the work is"


def test_acknowledged(tmp_path: Path) -> None:
    """An upload that waits for a replica is on that replica's disk when it is answered."""
    with site(tmp_path) as where:
        claims = _pair(where, "full", sync_replicas=1)
        for _ in range(4):
            claims.greatest, _ = claims.upload()
            _cut(where, claims)
            claims.check()
            with opened(claims.replica.state_dir) as engine:
                assert standing(engine).serial >= claims.greatest
            claims.replica.start()


def test_download(tmp_path: Path) -> None:
    """A file that a client fetched through a replica is there whole or not at all after a power
    cut, and can be had again."""
    with site(tmp_path) as where:
        claims = _pair(where, "lazy")
        replica = claims.replica

        def fetch() -> None:
            serial, built = claims.upload()
            try:
                replica.wait_serial(serial, 5.0)
                url = replica.file_urls(INDEX, "crash")[built.filename]
                body = http("GET", url).body
            except (OSError, HTTPException, AssertionError):
                return  # it is dead; the kills are counted
            assert body == built.data

        fetch()
        found = recorded_in(replica.state_dir / "files", replica, where.trace, fetch, 8)
        kills = sum(_fetched(where, claims, point, fetch) for point in [*found, NEVER])
        assert kills >= len(found) // 2, "the points are not where the work is"


def _fetched(where: Site, claims: Claims, point: Point, fetch: Callable[[], None]) -> bool:
    was_killed = killed_at(claims.replica, point, where.trace, fetch)
    _cut(where, claims)
    if point is NEVER:
        check_kept(claims.replica.state_dir, [claims.attempts.acknowledged[-1].data])
    claims.replica.start()
    check_same_roots([claims.primary, claims.replica])
    claims.attempts.check(claims.replica, last=2)
    return was_killed
