"""Making a primary of a stopped replica's folder, and a replica of an old primary's.

Both kinds of node keep their state in one layout; what makes a primary is the key of the log's
last epoch. All of it blocks, and works on a folder that no process uses.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson
from attrs import frozen
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, Engine

from cluster.durable import FolderLock, sync_folder, write_durably
from cluster.errors import LogError, PymirrorError
from cluster.log import changelog
from cluster.log.changes import Change, Kind, encode
from cluster.log.epochs import Owner, Start, Trust, parting, start_payload
from cluster.rollback import orphans_file, roll_back
from cluster.state import queries
from cluster.state.apply import apply
from cluster.state.database import open_engine, writing
from cluster.state.rows import Touched
from cluster.state.upgrade import bring_up_to_date

KEY_FILE: Final = "log-key"
IDENTITY_FILE: Final = "log-identity"
FENCED_FILE: Final = "fenced"
FENCE_FILE: Final = "to-fence"
"""URLs of the nodes that must still be told who owns the log; one a line."""
NO_PRIMARY: Final = (404, 405, 421)
"""What is answered to an order to stop writing where no primary of ours listens."""


class NotPossible(PymirrorError):
    """A folder cannot be promoted or demoted as it is; the message says why."""


@frozen
class Standing:
    """What a folder holds: the log's uuid, the key of its first epoch, its last epoch and serial,
    the Merkle root there, and how the epochs after the first began.
    """

    log: str
    key: str
    epoch: int
    serial: int
    root: bytes
    starts: tuple[Start, ...] = ()


@contextmanager
def opened(state_dir: Path) -> Iterator[Engine]:
    """The database of a stopped node; raises FolderInUse, NotPossible."""
    path = state_dir / "log.sqlite"
    if not path.exists():
        raise NotPossible(
            f"{state_dir} holds no log: is it a node's state folder? One that was demoted may "
            "have none until it is started as a replica"
        )
    lock = FolderLock(state_dir)
    engine = open_engine(path, changelog.metadata)
    try:
        bring_up_to_date(engine)
        yield engine
    finally:
        engine.dispose()
        lock.release()


def uuid_of(state_dir: Path) -> str:
    """The uuid of a folder's node; raises NotPossible when it has none."""
    try:
        return (state_dir / "uuid").read_text().strip()
    except FileNotFoundError:
        raise NotPossible(f"{state_dir}/uuid is missing: restore it from a backup") from None


def standing(engine: Engine) -> Standing:
    """How far a folder is; raises NotPossible for an empty log."""
    with engine.begin() as connection:
        epochs, head = queries.all_epochs(connection), queries.head(connection)
        starts = tuple(queries.starts(connection))
    if not epochs:
        raise NotPossible("the log is empty: there is nothing to be promoted")
    return Standing(epochs[0].log, epochs[0].key, head.epoch, head.serial, head.root, starts)


def root_at(engine: Engine, size: int) -> bytes:
    """The Merkle root of the first `size` entries (32 bytes); blocking, from any thread."""
    with engine.begin() as connection:
        return changelog.frontier(connection, size).root


def require_unowned(state_dir: Path, mine: Standing) -> None:
    """Raise NotPossible when this folder's node knows that the next epoch has an owner already.

    Blocking.
    """
    try:
        fence = orjson.loads((state_dir / FENCED_FILE).read_bytes())
    except FileNotFoundError:
        return
    if fence["epoch"] > mine.epoch and fence.get("key") is not None:
        raise NotPossible(
            f"epoch {fence['epoch']} has an owner already, {fence['url'] or 'another node'}: "
            "demote this folder, or promote a node that follows it (if all of those are lost for "
            f"good: remove the file {FENCED_FILE})"
        )


def promote(
    state_dir: Path, engine: Engine, secret: bytes, former: list[str], now: datetime
) -> Standing:
    """Start the next epoch, owned by this folder's node; `former` are URLs of those who may own
    the log, or believe so, `now` is for information.

    Order: key, then whom to fence, durable; then the entry that names the key. A crash between
    leaves a replica with a key that nothing names, and the command can be repeated.
    """
    before, node = standing(engine), uuid_of(state_dir)
    private = Ed25519PrivateKey.generate()
    write_durably(state_dir / KEY_FILE, private.private_bytes_raw())
    write_durably(state_dir / FENCE_FILE, "".join(f"{url}\n" for url in former).encode())
    key = base64.b64encode(private.public_key().public_bytes_raw()).decode()
    trust = Trust(before.log, before.key, secret)
    with writing(engine) as connection:
        _start_epoch(connection, trust, Owner(before.epoch + 1, key), node, now)
    (state_dir / FENCED_FILE).unlink(missing_ok=True)
    return standing(engine)


def _start_epoch(
    connection: Connection, trust: Trust, owner: Owner, node: str, now: datetime
) -> None:
    frontier = changelog.frontier(connection)
    payload = start_payload(trust, owner.epoch, owner.key, node, frontier)
    change, serial = Change(Kind.EPOCH_STARTED, payload), frontier.size + 1
    time = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    entry = encode(change, serial=serial, epoch=owner.epoch, time=time, actor="+promote")
    apply(connection, entry, Touched())
    changelog.append(connection, frontier, [entry])


def fork_of(mine: Standing, starts: list[Start], trust: Trust) -> Start | None:
    """Where the log of a newer primary left the one of a folder; None if it only goes on.

    `starts` are how its epochs began. Raises NotPossible when one is not proven.
    """
    if any(not start.is_proven(trust) for start in starts):
        raise NotPossible("that primary's epochs were not started by nodes of this cluster")
    last = max((start.epoch for start in starts), default=1)
    parted = parting(mine.starts, starts)
    if last <= mine.epoch and mine.serial:
        if parted is not None and parted.epoch == mine.epoch:
            raise NotPossible(
                f"epoch {mine.epoch} has two owners, that primary and this folder: stop that one, "
                "promote its folder once more, and start it; then demote this one"
            )
        raise NotPossible("that primary has no later epoch than this folder: promote it first")
    return parted


def demote(state_dir: Path, engine: Engine, fork: Start | None) -> Path | None:
    """Make a replica of an old primary; returns the file with the entries that nobody else has.

    Order: entries kept in that file, then the log cut, then what made the folder a primary's is
    put away, all of it durable; last a log that could not be cut. A crash between is mended by
    doing it again.
    """
    mine = standing(engine)
    orphans, is_cut = None, True
    if fork is not None and mine.serial >= fork.serial:
        orphans, is_cut = _taken_back(state_dir, engine, fork, mine.epoch)
    identity = orjson.dumps({"log": mine.log, "key": mine.key})
    write_durably(state_dir / IDENTITY_FILE, identity)
    key = state_dir / KEY_FILE
    if key.exists():
        key.replace(state_dir / f"{KEY_FILE}.epoch-{mine.epoch}")
    (state_dir / FENCED_FILE).unlink(missing_ok=True)
    # Else a power cut brings the key back, and the folder could be started as a primary's.
    sync_folder(state_dir)
    if not is_cut:
        engine.dispose()
        _put_away(state_dir, f"epoch-{mine.epoch}.sqlite")
    return orphans


def _taken_back(
    state_dir: Path, engine: Engine, fork: Start, epoch: int
) -> tuple[Path | None, bool]:
    """The file with what is taken back, and whether the log is cut there."""
    size = fork.serial - 1
    try:
        with writing(engine) as connection:
            if changelog.frontier(connection, size).root != fork.root:
                raise LogError("the logs differ already before the newer epoch began")
            return roll_back(connection, size, state_dir), True
    except changelog.Compacted:
        # What the entries left here say cannot be told without those that are gone: the replica
        # starts from a snapshot, and the old database stays for the operator.
        return orphans_file(state_dir, epoch, size), False


def _put_away(state_dir: Path, name: str) -> None:
    # Not as log…: what begins so, a replica deletes once it has another database.
    link = state_dir / "log.sqlite"
    file = link.resolve()  # a snapshot's database is behind a symbolic link
    for ending in ("", "-wal", "-shm"):
        path = file.with_name(file.name + ending)
        if path.exists():
            path.replace(state_dir / f"{name}{ending}")
    link.unlink(missing_ok=True)
    sync_folder(state_dir)
