"""Small files that must survive a power cut: keys, secrets, uuids. Blocking, all of it."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from cluster.errors import PymirrorError

TEMPORARY_SUFFIX = ".tmp"


class FolderInUse(PymirrorError):
    """Two processes must not work in one state folder."""


def write_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file whole or not at all.

    Order: the bytes are fsynced before the rename makes them visible, and the folder is fsynced
    after it, for a rename without that can be undone by a power cut.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    """A file's bytes; made and written durably when it does not exist yet."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        data = make()
        write_durably(path, data)
        return data


class FolderLock:
    """Keeps a second process out of a node's state folder; ends with the process at the latest."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise FolderInUse(f"{folder} is in use by another process: stop it first") from None

    def release(self) -> None:
        """Let others in."""
        os.close(self._descriptor)


class SecretBlobs:
    """Node-only blobs (password hashes), named by sha256, readable by this user alone.

    Log entries name them; they never leave for anybody but authenticated nodes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_durable = False

    def add(self, data: bytes) -> str:
        """Store a blob durably and return its name; call before the entry that names it."""
        self._make_folder()
        name = sha256(data).hexdigest()
        write_durably(self._folder / name, data)
        return name

    def get(self, name: str) -> bytes:
        """A blob's bytes; raises FileNotFoundError."""
        return (self._folder / name).read_bytes()

    def has(self, name: str) -> bool:
        """Whether a blob is here, or known to be lost."""
        return (self._folder / name).exists()

    def lost(self, name: str) -> None:
        """Note that nobody has a blob any more: it is empty from now on."""
        self._make_folder()
        write_durably(self._folder / name, b"")

    def _make_folder(self) -> None:
        if not self._is_durable:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Else a power cut may take the folder away with all that is durable in it.
            sync_folder(self._folder.parent)
            self._is_durable = True
