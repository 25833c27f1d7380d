"""A new replica joins: with a join token it gets the cluster's secret and its key is known.

Runs once, before anything is opened; blocking. Order: the key is durable before the primary
hears of it; then secret and log identity; last the key gets its name, which says "joined". So a
crash anywhere is mended by starting again with the same token.
"""

from __future__ import annotations

import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cluster.auth.jointokens import JoinRequest, JoinToken, parse
from cluster.auth.nodekeys import KEY_FILE, read_key
from cluster.durable import read_or_make, sync_folder, write_durably
from cluster.errors import LogError, PymirrorError
from cluster.options import NodeSettings
from cluster.protocol import JOIN_PATH
from cluster.web.status import LogIdentity
from replica.pinned import read_identity, write_identity

TOKEN_VARIABLE = "PYMIRROR_JOIN_TOKEN"  # noqa: S105 (its name)
_ANSWER_SECONDS = 20.0
_ANSWER_BYTES = 65_536
_FILE_BYTES = 4_096


class CannotJoin(PymirrorError):
    """The cluster does not take this node in; the message says why."""


def token_text(file: str | None, environment: Mapping[str, str]) -> str | None:
    """The join token from --join-token-file or the environment; None without; raises CannotJoin
    when the file cannot be read.
    """
    if not file:
        return environment.get(TOKEN_VARIABLE) or None
    try:
        with Path(file).expanduser().open() as opened:
            return opened.read(_FILE_BYTES)
    except OSError as error:
        raise CannotJoin(f"--join-token-file: {error}") from None


def has_joined(state_dir: Path) -> bool:
    """Whether this state folder belongs to a node that joined by its own key."""
    return (state_dir / KEY_FILE).exists()


def join(settings: NodeSettings, urls: Sequence[str], text: str) -> None:
    """Join by the first of `urls` that answers; raises CannotJoin."""
    token, folder = parse(text), settings.state_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    pending = folder / f"{KEY_FILE}.joining"
    read_or_make(pending, lambda: Ed25519PrivateKey.generate().private_bytes_raw())
    key = read_key(pending)
    assert key is not None  # noqa: S101 (it was just made)
    uuid = read_or_make(folder / "uuid", lambda: str(uuid4()).encode()).decode().strip()
    name = (settings.outside_url or "")[:200]
    asked = JoinRequest(uuid, key.public, name, secrets.token_urlsafe(24))
    identity, secret = _answered(asked, token, urls)
    _pin(folder, identity)
    settings.secret_file.parent.mkdir(parents=True, exist_ok=True)
    write_durably(settings.secret_file, secret + b"\n")
    os.replace(pending, folder / KEY_FILE)
    sync_folder(folder)


def _pin(folder: Path, identity: LogIdentity) -> None:
    path = folder / "log-identity"
    before = read_identity(path)
    if before is not None and before != identity:
        raise CannotJoin(f"{folder} follows log {before.log}; the join token is of another cluster")
    if before is None:
        write_identity(path, identity)


def _answered(
    asked: JoinRequest, token: JoinToken, urls: Sequence[str]
) -> tuple[LogIdentity, bytes]:
    problem: PymirrorError = CannotJoin("there is no URL to join by")
    for url in urls:
        try:
            said = _post(f"{url}{JOIN_PATH}", _document(asked, token))
            identity = LogIdentity(str(said["log"]), str(said["key"]))
            return identity, asked.open(token, identity.log, identity.key, str(said["sealed"]))
        except (PymirrorError, KeyError) as error:
            problem = CannotJoin(f"cannot join by {url}: {error}")
    raise problem


def _document(asked: JoinRequest, token: JoinToken) -> dict[str, Any]:
    return {
        "node": asked.node, "key": asked.key, "name": asked.name, "nonce": asked.nonce,
        "invite": token.id, "ends": token.ends, "proof": asked.proof(token),
    }  # fmt: skip


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kw: Any) -> None:
        return None


def _post(url: str, document: dict[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, orjson.dumps(document), headers)  # noqa: S310
    # No proxy of the environment: nodes speak to each other directly.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
    try:
        with opener.open(request, timeout=_ANSWER_SECONDS) as answer:
            said = orjson.loads(answer.read(_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        text = error.read(300).decode("utf-8", "replace").strip()
        raise CannotJoin(f"{error.code}: {text}") from None
    except (OSError, ValueError) as error:
        raise CannotJoin(str(error)) from None
    if not isinstance(said, dict):
        raise LogError("the answer is not a JSON object")
    return said
