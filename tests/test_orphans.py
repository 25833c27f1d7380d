"""What entries that were taken back come to when they are sent again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from cluster.auth.passwords import LOCKED, hash_password, matches
from cluster.durable import SecretBlobs
from cluster.errors import InvalidRequest, LogError
from cluster.importing.dump import DumpedFile, DumpedRelease, DumpedUser
from cluster.importing.orphans import NodeFolder, Orphans
from cluster.log.changes import Change, Kind, encode, in_parts

PLACE = {"index": "ann/dev", "project": "demo", "name": "Demo"}
DIGEST = "ab" * 32


def lines(*changes: Change) -> list[bytes]:
    """The lines of a file of orphaned entries."""
    time = "2026-01-01T00:00:00.000000Z"
    return [
        encode(change, serial=7 + n, epoch=1, time=time, actor="ann").raw + b"\n"
        for n, change in enumerate(changes)
    ]


def added(filename: str, version: str = "1.0", **more: Any) -> Change:
    """A file is uploaded."""
    file = {"filename": filename, "version": version, "hashes": {"sha256": DIGEST}, **more}
    return Change(Kind.FILE_ADDED, {**PLACE, "file": file, "log": [{"what": "upload"}]})


def release(version: str = "1.0", summary: str = "x") -> Change:
    """A release is registered."""
    metadata = [["name", "Demo"], ["version", version], ["summary", summary]]
    return Change(Kind.RELEASE_SET, {**PLACE, "version": version, "metadata": metadata})


@pytest.fixture
def orphans(tmp_path: Path) -> Orphans:
    """Of an empty folder."""
    return Orphans(NodeFolder(tmp_path))


def test_an_upload(orphans: Orphans, tmp_path: Path) -> None:
    """A release and its file, once, whatever was written twice; the bytes are in the folder."""
    entries = lines(release(), added("demo-1.0.tar.gz"))
    orphans.read(entries + entries)
    sent = [thing for batch in orphans.batches() for thing in batch]
    file = DumpedFile(
        "releasefile", "ann/dev", "Demo", "1.0", "ann/dev/demo/demo-1.0.tar.gz",
        {"sha256": DIGEST}, None, ({"what": "upload"},),
    )  # fmt: skip
    metadata = {"name": "Demo", "version": "1.0", "summary": "x"}
    assert sent == [DumpedRelease("ann/dev", "demo", "1.0", metadata), file]
    assert orphans.by_hand == []
    with pytest.raises(InvalidRequest, match="are not in"):
        orphans._folder.open_path(file)
    stored = tmp_path / "files" / "sha256" / "ab" / DIGEST
    stored.parent.mkdir(parents=True)
    stored.write_bytes(b"")
    assert orphans._folder.open_path(file) == stored


def test_a_release_in_parts(orphans: Orphans) -> None:
    """Long metadata is put together again, and a later change of it counts."""
    pairs = [("metadata", ["description", "long " * 5_000]) for _ in range(4)]
    parts = in_parts(Kind.RELEASE_SET, {**PLACE, "version": "1.0"}, pairs)
    assert len(parts) > 1
    orphans.read(lines(release(), *parts))
    (found,) = orphans.releases.values()
    assert found.metadata == {"description": "long " * 20_000, "name": "Demo"}


@pytest.mark.parametrize(
    ("removal", "files", "releases"),
    [
        (Change(Kind.FILE_REMOVED, {**PLACE, "filename": "demo-1.0.tar.gz"}), 1, 1),
        (Change(Kind.RELEASE_REMOVED, {**PLACE, "version": "2.0"}), 1, 1),
        (Change(Kind.PROJECT_REMOVED, PLACE), 0, 0),
        (Change(Kind.INDEX_REMOVED, {"index": "ann/dev"}), 0, 0),
        (Change(Kind.PROJECT_REMOVED, {**PLACE, "project": "other"}), 2, 2),
    ],
)
def test_removed_later(orphans: Orphans, removal: Change, files: int, releases: int) -> None:
    """What was removed again is not sent, with what hung on it; the removal is left to somebody."""
    two = (release("2.0"), added("demo-2.0.tar.gz", "2.0"))
    orphans.read(lines(release(), added("demo-1.0.tar.gz"), *two, removal))
    assert (len(orphans.files), len(orphans.releases)) == (files, releases)
    assert len(orphans.by_hand) == 1


def test_a_tox_result_goes_with_its_file(orphans: Orphans) -> None:
    """A result is not sent when the file that was tested is gone."""
    result = {"filename": "demo-1.0.tar.gz.toxresult-0", "sha256": DIGEST, "size": 2}
    tested = Change(
        Kind.TOXRESULT_ADDED, {**PLACE, "filename": "demo-1.0.tar.gz", "result": result}
    )
    orphans.read(lines(added("demo-1.0.tar.gz"), tested))
    assert [len(batch) for batch in orphans.batches()] == [0, 0, 1, 1, 0]
    gone = Change(Kind.FILE_REMOVED, {**PLACE, "filename": "demo-1.0.tar.gz"})
    orphans.read(lines(gone))
    assert orphans.files == {}


@pytest.mark.parametrize(
    "stored",
    [hash_password("x"), "devpi-sha256$salt$" + "ab" * 32, LOCKED],
    ids=["ours", "devpi", "locked"],
)
def test_users(orphans: Orphans, tmp_path: Path, stored: str) -> None:
    """A password's hash is sent as a dump has it; root comes last."""
    blob = SecretBlobs(tmp_path / "secrets").add(stored.encode())
    users = [
        Change(Kind.USER_SET, {"user": name, "options": {"title": name}, "password": blob})
        for name in ("root", "ann")
    ]
    orphans.read(lines(*users))
    first, *_, last = orphans.batches()
    assert [thing.name for thing in (*first, *last) if isinstance(thing, DumpedUser)] == [
        "ann", "root",
    ]  # fmt: skip
    config = dict(orphans.users["ann"].config)
    assert config.pop("title") == "ann"
    expected = {
        "devpi": {"pwhash": "ab" * 32, "pwsalt": "salt"}, "$argo": {"pwhash": stored},
    }  # fmt: skip
    assert config == expected.get(stored[:5], {})
    assert orphans.by_hand == []


def test_passwords_that_are_not_here(orphans: Orphans) -> None:
    """An empty password stays one; a lost one is left to somebody."""
    orphans.read(
        lines(
            Change(Kind.USER_SET, {"user": "ann", "options": {}}),
            Change(Kind.USER_SET, {"user": "bob", "options": {}, "password": DIGEST}),
        )
    )
    assert matches(orphans.users["ann"].config["pwhash"], "")
    assert orphans.users["bob"].config == {}
    assert orphans.by_hand == ["set a password: devpi user -m bob password=…"]


def test_an_index_with_credentials(orphans: Orphans, tmp_path: Path) -> None:
    """Credentials stand in the URLs that they belong to, as somebody would set them."""
    secrets = {
        "mirror_credentials": "ann:p@:ss", "webhook_secret": "hook", "salt": "00",
    }  # fmt: skip
    blob = SecretBlobs(tmp_path / "secrets").add(orjson.dumps(secrets))
    options = {"mirror_url": "https://index.example/simple/"}
    orphans.read(
        lines(
            Change(
                Kind.INDEX_SET,
                {"index": "ann/up", "type": "mirror", "options": options, "secrets": blob},
            )
        )
    )
    assert orphans.indexes["ann/up"].options == {
        "type": "mirror", "mirror_url": "https://ann:p%40%3Ass@index.example/simple/",
        "webhook_secret": "hook",
    }  # fmt: skip


def test_what_is_left_to_somebody(orphans: Orphans) -> None:
    """Every other kind is listed with what to do; mirrors' entries need nobody."""
    where = {"index": "ann/dev", "stage": "s1"}
    orphans.read(
        lines(
            Change(Kind.FILE_YANKED, {**PLACE, "filenames": ["demo-1.0.zip"], "yanked": "bad"}),
            Change(Kind.PROJECT_STATUS, {**PLACE, "status": {"status": "archived"}}),
            Change(Kind.STAGE_PUBLISHED, where),
            Change(Kind.STAGE_DROPPED, where),
            Change(Kind.TOKEN_ADDED, {"token": "t1", "user": "ann"}),
            Change(Kind.TOKEN_REMOVED, {"token": "t1"}),
            Change(Kind.NODE_KEY, {"node": "n1", "key": "k"}),
            Change(Kind.NODE_REVOKED, {"node": "n1"}),
            Change(Kind.USER_REMOVED, {"user": "ann"}),
            Change(Kind.FILE_ADDED, {**added("demo-3.0.zip").payload, "stage": "s1"}),
            added("demo-2.0.zip", yanked="", attestations=DIGEST),
            Change(Kind.EPOCH_STARTED, {"log": "l", "key": "k"}),
            Change(Kind.MIRROR_LISTING, {"index": "root/pypi", "added": ["x"]}),
        )
    )
    assert [line.split()[0] for line in orphans.by_hand] == [
        "yank", "set", "publish", "drop", "give", "revoke", "let", "revoke", "remove", "upload",
        "give", "yank",
    ]  # fmt: skip
    assert (orphans.mirrored, len(orphans.files)) == (1, 1)


def test_what_is_no_entry(orphans: Orphans) -> None:
    """Another file is refused."""
    with pytest.raises(LogError):
        orphans.read([b"something else\n"])
