"""Node-only blobs come to a replica before the entries that name them."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
import pytest_twisted

from cluster.durable import SecretBlobs
from cluster.log.changes import Change, Kind
from replica.secretsync import LacksSecrets, SecretSync
from tests.fakes import entries
from tests.test_follower import following, log_of

BLOB = b"$argon2id$a hash"
NAME = sha256(BLOB).hexdigest()
USER = Change(Kind.USER_SET, {"user": "eve", "password": NAME, "options": {}})


@pytest_twisted.ensureDeferred
async def test_fetched_first(tmp_path: Path) -> None:
    """Once an entry that names a blob is applied, the blob is here; it is asked for once."""
    async with following(tmp_path, log_of("ann")) as it:
        await it.reach(2)
        it.primary.blobs[NAME] = BLOB
        it.primary.record(USER)
        await it.reach(3)
        assert it.blobs.get(NAME) == BLOB
        it.primary.record(USER)
        await it.reach(4)
        assert it.primary.asked_blobs == [NAME]


@pytest_twisted.ensureDeferred
async def test_other_bytes_are_refused(tmp_path: Path) -> None:
    """Other bytes stop the replica before the entry; the right ones let it go on."""
    async with following(tmp_path, log_of("ann")) as it:
        await it.reach(2)
        it.primary.blobs[NAME] = b"something else"
        it.primary.record(USER)
        await it.failed()
        assert it.position.serial == 2
        assert not it.blobs.has(NAME)
        it.primary.blobs[NAME] = BLOB
        it.retry()
        await it.reach(3)
        assert it.blobs.get(NAME) == BLOB


@pytest_twisted.ensureDeferred
async def test_lost_blob(tmp_path: Path) -> None:
    """A blob that nobody has any more does not stop a replica: it stays empty."""
    async with following(tmp_path, log_of("ann")) as it:
        it.primary.record(USER)
        await it.reach(3)
        assert it.blobs.get(NAME) == b""


def test_only_what_names_a_blob(tmp_path: Path) -> None:
    """Users and indexes name blobs; a text that looks like it, or another kind, does not."""
    sync = SecretSync(None, SecretBlobs(tmp_path / "secrets"), None)  # type: ignore[arg-type]
    text = f'"password":"{NAME}"'
    quoted = [
        Change(Kind.USER_SET, {"user": "eve", "options": {"title": text}}),
        Change(Kind.MIRROR_LISTING, {"index": "a/b", "added": [text], "password": NAME}),
    ]
    sync.require(entry.raw for entry in entries(quoted))
    index = {"index": "a/b", "type": "mirror", "options": {}, "secrets": NAME}
    with pytest.raises(LacksSecrets) as lacking:
        sync.require(entry.raw for entry in entries([USER, Change(Kind.INDEX_SET, index)]))
    assert lacking.value.names == [NAME]
