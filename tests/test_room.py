"""What uploads may take of the disk."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.errors import DiskRefused
from cluster.web.body import RequestStream
from primary.room import Room


class Sender:
    """A connection that can be paused."""

    def pauseProducing(self) -> None:
        """Pause."""

    def resumeProducing(self) -> None:
        """Go on."""


def refused(room: Room, size: int) -> bool:
    try:
        room.require(size)
    except DiskRefused:
        return True
    return False


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A disk with 100 bytes free; another error or number as the test says."""
    told: dict[str, Any] = {"free": 100}

    def statvfs(path: Path) -> object:
        if isinstance(told["free"], OSError):
            raise told["free"]
        return SimpleNamespace(f_bavail=told["free"], f_frsize=1)

    monkeypatch.setattr(os, "statvfs", statvfs)
    return told


def test_floor(disk: dict[str, Any], tmp_path: Path) -> None:
    """An upload may take what leaves the floor free; a floor of 0 asks for nothing."""
    room = Room(tmp_path, 60)
    assert not refused(room, 40)
    with pytest.raises(DiskRefused, match=r"no room for 41 bytes .* 100 are free"):
        room.require(41)
    assert room.document() == {"free_bytes": 100, "floor_bytes": 60}
    assert not refused(Room(tmp_path, 0), 1_000)


def test_uploads_together(disk: dict[str, Any], tmp_path: Path) -> None:
    """What is still to come of others counts, and what has come is on the disk already."""
    room, stream = Room(tmp_path, 60), RequestStream(cast(Any, Sender()), 30)
    with room.taking(stream):
        assert (refused(room, 10), refused(room, 11)) == (False, True)
        stream.feed(b"x" * 20)
        disk["free"] = 80
        assert (refused(room, 10), refused(room, 11)) == (False, True)
    assert (refused(room, 20), refused(room, 21)) == (False, True)


def test_a_disk_that_tells_nothing(disk: dict[str, Any], tmp_path: Path) -> None:
    """Uploads are refused with the reason, and the status goes on."""
    disk["free"] = OSError(5, "Input/output error")
    room = Room(tmp_path, 60)
    with pytest.raises(DiskRefused, match="Input/output error"):
        room.require()
    assert room.document() == {"free_bytes": None, "floor_bytes": 60}
