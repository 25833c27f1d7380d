"""A long log, made offline with the writer's own steps: encode, apply, append, in batches."""

from __future__ import annotations

import random
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from uuid import UUID

from cluster.log import changelog
from cluster.log.changes import Change, Kind, encode
from cluster.log.merkle import Frontier
from cluster.model import HostedIndex, MirrorIndex
from cluster.names import IndexName
from cluster.state import schema
from cluster.state.apply import apply
from cluster.state.database import open_engine, writing
from cluster.state.rows import Touched
from primary.bootstrap import index_set, load_key, public_text

_BATCH = 2_000
_CACHE_KIB = 200_000  # links come in no order: their index is best held in memory
_FILES_OF_A_PROJECT = 40
_MIRRORED_EVERY = 4
_LOG = str(UUID(int=7))


def make_log(state_dir: Path, entries: int) -> None:
    """A primary's state folder whose log has so many entries: of four, three are uploads of a
    file, and one is what a mirrored project's page brought.
    """
    state_dir.mkdir(parents=True)
    key = public_text(load_key(state_dir))
    engine = open_engine(
        state_dir / "log.sqlite", changelog.metadata, schema.metadata, durable=False
    )
    frontier, changes = Frontier(), islice(_changes(key), entries)
    while batch := list(islice(changes, _BATCH)):
        with writing(engine) as connection:
            connection.exec_driver_sql(f"PRAGMA cache_size=-{_CACHE_KIB}")
            made = []
            for serial, change in enumerate(batch, start=frontier.size + 1):
                time = f"2026-01-01T00:00:00.{serial % 1_000_000:06}Z"
                entry = encode(change, serial=serial, epoch=1, time=time, actor="root")
                apply(connection, entry, Touched())
                made.append(entry)
            frontier = changelog.append(connection, frontier, made)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"PRAGMA user_version={schema.VERSION}")
    engine.dispose()


def _changes(key: str) -> Iterator[Change]:
    chance = random.Random(1)
    yield Change(Kind.EPOCH_STARTED, {"log": _LOG, "key": key})
    yield Change(Kind.USER_SET, {"user": "root", "options": {}})
    yield index_set(HostedIndex(IndexName("root/dev")))
    yield index_set(MirrorIndex(IndexName("root/pypi"), mirror_url="https://index.example/simple/"))
    number = 0
    while True:
        project = f"project-{number // _FILES_OF_A_PROJECT}"
        yield (
            _mirrored(project, number)
            if number % _MIRRORED_EVERY == 0
            else _uploaded(project, number, chance)
        )
        number += 1


def _file(project: str, number: int) -> dict[str, object]:
    version = f"{number % _FILES_OF_A_PROJECT}.{number % 7}"
    digest = sha256(b"%d" % number).hexdigest()
    return {
        "filename": f"{project.replace('-', '_')}-{version}-py3-none-any.whl",
        "version": version, "hashes": {"sha256": digest}, "size": 10_000 + number,
        "requires_python": ">=3.9", "upload_time": "2026-01-01T00:00:00.000000Z",
    }  # fmt: skip


def _uploaded(project: str, number: int, chance: random.Random) -> Change:
    payload = {"index": "root/dev", "project": project, "name": project}
    file = {**_file(project, number), "core_metadata": f"{chance.getrandbits(256):064x}"}
    return Change(Kind.FILE_ADDED, {**payload, "file": file})


def _mirrored(project: str, number: int) -> Change:
    file = _file(project, number)
    files = [{**file, "url": f"https://files.example/{number}/{file['filename']}"}]
    return Change(
        Kind.MIRROR_PROJECT,
        {"index": "root/pypi", "project": project, "name": project, "files": files},
    )
