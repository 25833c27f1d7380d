"""Snapshots: what comes out is what went in, and nothing that the owner did not sign."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from sqlite3 import ProgrammingError

import orjson
import pytest
import zstandard
from attrs import evolve
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from cluster.errors import DiskRefused, LogError, PymirrorError, UnknownFormat
from cluster.log import changelog
from cluster.log.changes import Change, Kind
from cluster.log.checkpoint import LogSigner
from cluster.log.driver import driver
from cluster.log.epochs import Start, Trust, start_payload
from cluster.log.merkle import Frontier
from cluster.log.snapshot import (
    CHUNK_LIMIT,
    Manifest,
    open_manifest,
    pack,
    sign_manifest,
    unpack,
)
from cluster.state import schema
from cluster.state.database import writing
from cluster.state.rowstream import StateDigest, insert_rows
from cluster.state.upgrade import CannotReplay, bring_up_to_date
from primary.snapshotfiles import MANIFEST, Abandoned, Maker, Snapshot, existing
from replica.following import Diverged
from replica.loading import Loader, put_in_place
from tests.fakes import LOG, SIGNER, START, TRUST, engine, user_set
from tests.snapshots import facts, load, make, opened, record, record_all, state_digest
from tests.strategies import Write, histories

STRANGER = LogSigner(SIGNER.name, Ed25519PrivateKey.from_private_bytes(bytes(32)))
PASSWORD = sha256(b"a hash").hexdigest()


@pytest.fixture
def source() -> Iterator[Engine]:
    """A log of 300 entries: more than a tile."""
    with engine() as made:
        users = [user_set(f"user-{n}", title='ünï\n"x"\\') for n in range(298)]
        root = Change(Kind.USER_SET, {"user": "root", "options": {}, "password": PASSWORD})
        record_all(made, [START, root, *users])
        yield made


@pytest.fixture
def snapshot(source: Engine, tmp_path: Path) -> Snapshot:
    """A snapshot of it."""
    return make(source, tmp_path / "snapshots")


def document(snapshot: Snapshot) -> bytes:
    return (snapshot.folder / MANIFEST).read_bytes()


@given(before=histories(15), after=histories(10))
@settings(
    max_examples=60, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
def test_snapshot_and_tail_equal_a_replay(before: list[Write], after: list[Write]) -> None:
    """R10: rows, frontier and tiles after snapshot and tail are those of a replay from 0."""
    with tempfile.TemporaryDirectory() as name, engine() as whole:
        folder = Path(name)
        record_all(whole, [START, *(change for write in before for change in write)])
        snapshot = make(whole, folder / "snapshots")
        load(snapshot, folder / "loaded.sqlite")
        rest = [change for write in after for change in write]
        record_all(whole, rest)
        part = opened(folder / "loaded.sqlite")
        record_all(part, rest)
        assert facts(part) == facts(whole)
        with part.begin() as one, whole.begin() as other:
            assert state_digest(one) == state_digest(other)
            assert changelog.minimum(one) == snapshot.serial
        part.dispose()


def test_a_loaded_database_is_a_nodes(snapshot: Snapshot, source: Engine, tmp_path: Path) -> None:
    """What was loaded has the version, the indexes and the links of a database that grew, and
    says which node-only blobs it needs."""
    path = tmp_path / "loaded.sqlite"
    assert load(snapshot, path) == {PASSWORD}
    loaded = opened(path)
    bring_up_to_date(loaded)
    assert facts(loaded) == facts(source)
    sql = "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    with loaded.begin() as one, source.begin() as other:
        names = [sorted(c.exec_driver_sql(sql).scalars()) for c in (one, other)]
    loaded.dispose()
    assert names[0] == names[1]


def test_only_the_owner_signs(snapshot: Snapshot) -> None:
    """A manifest of another key, another log or under another name is refused."""
    good, manifest = document(snapshot), snapshot.manifest
    assert open_manifest(good, SIGNER.name, TRUST) == manifest
    for raw, name, trust in (
        (sign_manifest(manifest, STRANGER), SIGNER.name, TRUST),
        (good, "pymirror/other", TRUST),
        (good, SIGNER.name, evolve(TRUST, log="other")),
        (sign_manifest(evolve(manifest, log="other"), SIGNER), SIGNER.name, TRUST),
        (good, SIGNER.name, evolve(TRUST, key=base64.b64encode(STRANGER.key.public).decode())),
    ):
        with pytest.raises(LogError):
            open_manifest(raw, name, trust)


@given(data=st.data())
@settings(max_examples=200, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_no_byte_of_a_manifest_can_change(snapshot: Snapshot, data: st.DataObject) -> None:
    """A manifest with any byte changed, cut or added is refused with an error of ours."""
    good = document(snapshot)
    at = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != good[at]))
    bad = data.draw(st.sampled_from((
        good[:at] + bytes([byte]) + good[at + 1 :], good[:at], good[:at] + good[at + 1 :],
        good[:at] + bytes([byte]) + good[at:], good + bytes([byte]),
    )))  # fmt: skip
    if bad != good:  # one of two equal bytes was removed, or doubled
        with pytest.raises(PymirrorError):
            open_manifest(bad, SIGNER.name, TRUST)


def test_a_later_owner_must_be_proven(snapshot: Snapshot) -> None:
    """Of a later epoch, the proof is in the manifest and counts under the cluster's secret only."""
    before = Frontier(4, (bytes(32),))
    key = base64.b64encode(STRANGER.key.public).decode()
    payload = start_payload(TRUST, 2, key, "node", before)
    start = Start(2, 5, key, "node", payload["proof"], before.root)
    later = evolve(snapshot.manifest, epoch=2, starts=[start])
    assert open_manifest(sign_manifest(later, STRANGER), SIGNER.name, TRUST) == later
    for bad in (
        sign_manifest(later, SIGNER),
        sign_manifest(evolve(later, starts=[evolve(start, proof="x")]), STRANGER),
        sign_manifest(evolve(later, starts=[evolve(start, serial=6)]), STRANGER),
        sign_manifest(evolve(later, starts=[start, start]), STRANGER),
        sign_manifest(evolve(later, epoch=3), STRANGER),
    ):
        with pytest.raises(LogError):
            open_manifest(bad, SIGNER.name, TRUST)
    with pytest.raises(LogError):
        open_manifest(sign_manifest(later, STRANGER), SIGNER.name, Trust(LOG, TRUST.key, b"other"))


def test_news_ask_for_an_upgrade(snapshot: Snapshot) -> None:
    """A manifest of a later format is not called malformed."""
    values = orjson.loads(snapshot.manifest.encode())
    text = orjson.dumps({**values, "format": 2}, option=orjson.OPT_SORT_KEYS)
    with pytest.raises(UnknownFormat):
        open_manifest(text + document(snapshot)[len(snapshot.manifest.encode()) :],
                      SIGNER.name, TRUST)  # fmt: skip


def test_tampered_chunks_are_refused(snapshot: Snapshot, tmp_path: Path) -> None:
    """A chunk with another byte, another length, or of another place is not loaded."""
    number = len(snapshot.manifest.chunks) - 1
    path = snapshot.chunk_path(number)
    good = path.read_bytes()
    for bad in (good[:-1], good + b"x", b"", bytes([good[0] ^ 1]) + good[1:],
                snapshot.chunk_path(0).read_bytes()):  # fmt: skip
        path.write_bytes(bad)
        with pytest.raises(LogError, match="not what its manifest says"):
            load(snapshot, tmp_path / "loaded.sqlite")


def signed(manifest: Manifest, number: int, raw: bytes, folder: Path) -> Snapshot:
    """The snapshot that an owner would sign who means harm, or has a broken disk."""
    chunk, packed = pack(manifest.chunks[number].table, manifest.chunks[number].rows, raw)
    chunks = [*manifest.chunks]
    chunks[number] = chunk
    snapshot = Snapshot(folder, evolve(manifest, chunks=chunks))
    snapshot.chunk_path(number).write_bytes(packed)
    return snapshot


def test_rows_must_have_the_digest(snapshot: Snapshot, tmp_path: Path) -> None:
    """Chunks that are signed but do not hold the state that is signed are refused, each way."""
    good = snapshot.manifest
    users = next(n for n, c in enumerate(good.chunks) if c.table == "users")
    raw = unpack(good.chunks[users], snapshot.chunk_path(users).read_bytes())
    leaves = unpack(good.chunks[0], snapshot.chunk_path(0).read_bytes())
    for number, bad in (
        (users, raw.replace(b"user-17", b"user-71x")), (users, b"nothing"), (users, b""),
        (users, b"[1,2]\n" * good.chunks[users].rows), (users, raw.replace(b'"user-17"', b'{}')),
        (users, raw + raw),
        (0, leaves[32:]), (0, leaves[32:] + bytes(32)),
    ):  # fmt: skip
        with pytest.raises(LogError):
            load(signed(good, number, bad, snapshot.folder), tmp_path / "loaded.sqlite")


def test_a_row_of_an_unknown_table(source: Engine) -> None:
    """Rows of a table that is not in the schema are refused, never executed."""
    with writing(source) as connection, pytest.raises(LogError, match="which this program"):
        insert_rows(connection, "log", b"[1,2]\n")


def test_tables_come_in_their_order() -> None:
    """Rows of a table have no place in the digest behind those of a later one."""
    total = StateDigest()
    total.add("users", b"[]")
    total.add("indexes", b"[]")
    with pytest.raises(LogError, match="where there should be none"):
        total.add("users", b"[]")


def test_a_bomb_is_refused() -> None:
    """A small chunk that becomes a large one takes bounded memory and is refused."""
    packed = zstandard.compress(bytes(CHUNK_LIMIT * 20))
    chunk, _ = pack("users", 1, b"x")
    bomb = evolve(chunk, size=len(packed), sha256=sha256(packed).hexdigest())
    with pytest.raises(LogError, match="more than"):
        unpack(bomb, packed)


def test_must_continue_what_is_here(snapshot: Snapshot, source: Engine, tmp_path: Path) -> None:
    """A snapshot is taken by who holds a beginning of its log, not by who holds another one."""
    with source.begin() as connection:
        mine = changelog.frontier(connection, 17)
    load(snapshot, tmp_path / "one.sqlite", mine)
    with engine() as other:
        record_all(other, [START, user_set("mallory")])
        with other.begin() as connection:
            theirs = changelog.frontier(connection)
    with pytest.raises(Diverged):
        load(snapshot, tmp_path / "two.sqlite", theirs)
    with writing(source) as connection:
        ahead = record(connection, [user_set("later")])
    with pytest.raises(Diverged):
        load(snapshot, tmp_path / "three.sqlite", ahead)


def test_the_first_owner_must_be_known(snapshot: Snapshot, tmp_path: Path) -> None:
    """A log that began under another key than the pinned one is not loaded."""
    with pytest.raises(LogError, match="identity"):
        load(snapshot, tmp_path / "x.sqlite", trust=evolve(TRUST, key="other"))


def test_what_is_on_disk(snapshot: Snapshot, source: Engine) -> None:
    """A primary keeps the snapshots of its own log, and removes what is half made or foreign."""
    root = snapshot.folder.parent
    (root / ".making").mkdir()
    with source.begin() as connection:
        assert [one.serial for one in existing(root, SIGNER, TRUST, connection)] == [300]
    assert [path.name for path in root.iterdir()] == ["300"]
    with engine() as other:
        record_all(other, [START, *(user_set(f"other-{n}") for n in range(400))])
        with other.begin() as connection:
            assert existing(root, SIGNER, TRUST, connection) == []
    assert list(root.iterdir()) == []


def test_abandoned(source: Engine, tmp_path: Path) -> None:
    """A node that goes down gives up at the next chunk, and leaves no snapshot."""
    with pytest.raises(Abandoned):
        Maker(tmp_path, SIGNER, lambda: True).make(source)
    assert [path.name for path in tmp_path.iterdir()] == [".making"]


def test_readers_go_on_while_the_file_is_replaced(
    snapshot: Snapshot, source: Engine, tmp_path: Path
) -> None:
    """Who reads the old file goes on reading it, and lets it go then; who asks next reads the new
    one, and keeps his connection; twice over, and only the file in use is left."""
    node = opened(tmp_path / "log.sqlite")
    record_all(node, [START])
    for _ in range(2):
        with node.begin() as old:
            before = changelog.size(old)
            load(snapshot, tmp_path / "loading.sqlite")
            put_in_place(tmp_path / "loading.sqlite", tmp_path, node)
            with node.begin() as new:
                assert changelog.size(new) == 300
            assert changelog.size(old) == before
            held = driver(old)
        with pytest.raises(ProgrammingError, match="closed"):
            held.execute("SELECT 1")
    with node.begin() as one:
        kept = driver(one)
    with node.begin() as other:
        assert driver(other) is kept, "connections are kept, as before"
    assert facts(node) == facts(source)
    record_all(node, [user_set("later")])
    node.dispose()
    names = {path.name for path in tmp_path.glob("log*")}
    assert names == {"log.sqlite", (tmp_path / "log.sqlite").readlink().name}
    again = opened(tmp_path / "log.sqlite")
    with again.begin() as connection:
        assert changelog.size(connection) == 301
    again.dispose()


def test_another_version_cannot_be_replayed(snapshot: Snapshot, tmp_path: Path) -> None:
    """A state of another version whose log begins with a snapshot is refused, never emptied."""
    load(snapshot, tmp_path / "log.sqlite")
    node = opened(tmp_path / "log.sqlite")
    before = facts(node)
    with node.begin() as connection:
        connection.exec_driver_sql(f"PRAGMA user_version={schema.VERSION - 1}")
    with pytest.raises(CannotReplay, match="begins behind entry 300"):
        bring_up_to_date(node)
    assert facts(node) == before
    node.dispose()


def test_a_disk_without_room(snapshot: Snapshot, tmp_path: Path) -> None:
    """A snapshot that does not fit is no bad answer: the disk is named."""
    loader = Loader(tmp_path / "loaded.sqlite", snapshot.manifest)
    loader.open()
    try:
        pages = driver(loader._connection).execute("PRAGMA page_count").fetchone()[0]
        driver(loader._connection).execute(f"PRAGMA max_page_count={pages}")
        number, chunk = next(
            (n, c) for n, c in enumerate(snapshot.manifest.chunks) if c.table == "users"
        )
        raw = unpack(chunk, snapshot.chunk_path(number).read_bytes())
        with pytest.raises(DiskRefused, match=r"loaded\.sqlite cannot be written"):
            loader.load(chunk, raw)
    finally:
        loader.close()
