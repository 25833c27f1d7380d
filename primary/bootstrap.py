"""The first start of a primary: its key, the log's first entries, user root, index root/pypi.

Order: key and secrets are durable before the entries that name them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

from attrs import frozen
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection

from cluster.auth.acl import ROOT
from cluster.auth.passwords import hash_password
from cluster.durable import SecretBlobs, read_or_make
from cluster.errors import PymirrorError
from cluster.log.changes import Change, Kind
from cluster.log.checkpoint import LogSigner
from cluster.model import Index, MirrorIndex
from cluster.names import IndexName
from cluster.promotion import KEY_FILE
from cluster.protocol import log_origin
from cluster.state import queries
from cluster.state.options import to_options

FIRST_EPOCH = 1


class BadState(PymirrorError):
    """The state directory cannot be used as it is; the message says what to do."""


@frozen
class FirstStart:
    """What the operator wants of a new primary."""

    root_pypi_url: Callable[[], str | None]
    root_password: str | None


def load_key(state_dir: Path) -> Ed25519PrivateKey:
    """The key that signs this primary's checkpoints, made on first start (file mode 0600)."""
    raw = read_or_make(
        state_dir / KEY_FILE, lambda: Ed25519PrivateKey.generate().private_bytes_raw()
    )
    try:
        return Ed25519PrivateKey.from_private_bytes(raw)
    except ValueError:
        raise BadState(f"{state_dir / KEY_FILE} is not an Ed25519 key: restore it") from None


def public_text(private: Ed25519PrivateKey) -> str:
    """The public half in base64, as `epoch.started` records it."""
    return base64.b64encode(private.public_key().public_bytes_raw()).decode()


def first_changes(
    connection: Connection, private: Ed25519PrivateKey, blobs: SecretBlobs, wish: FirstStart
) -> list[Change]:
    """The first entries of a new log; none if the log has been started already."""
    if queries.epoch(connection) is not None:
        return []
    start = {"log": str(uuid4()), "key": public_text(private)}
    user: dict[str, object] = {"user": ROOT, "options": {}}
    if wish.root_password:
        user["password"] = blobs.add(hash_password(wish.root_password).encode())
    changes = [Change(Kind.EPOCH_STARTED, start), Change(Kind.USER_SET, user)]
    url = wish.root_pypi_url()
    if url is not None:
        changes.append(index_set(root_pypi(url)))
    return changes


def root_pypi(url: str) -> MirrorIndex:
    """The index that a fresh server has, as devpi's fresh server has it."""
    host = urlsplit(url)
    web = f"{host.scheme}://{host.netloc}/project/{{name}}/"
    return MirrorIndex(
        IndexName(f"{ROOT}/pypi"),
        mirror_url=url,
        volatile=False,
        options={"title": "PyPI", "mirror_web_url_fmt": web},
    )


def index_set(index: Index) -> Change:
    """The change that creates an index or sets all its options."""
    kind = "mirror" if isinstance(index, MirrorIndex) else "stage"
    named = {"secrets": index.secrets} if index.secrets else {}
    payload = {"index": index.name, "type": kind, "options": to_options(index), **named}
    return Change(Kind.INDEX_SET, payload)


def signer_for(private: Ed25519PrivateKey, epoch: queries.Epoch) -> LogSigner:
    """The signer of the epoch in force; raises BadState when the key is not that epoch's."""
    if epoch.key != public_text(private):
        raise BadState(
            "the state directory's log-key is not the key of the log's last epoch: a replica's "
            "folder becomes a primary's by `pymirror promote`"
        )
    return LogSigner(log_origin(epoch.log), private)
