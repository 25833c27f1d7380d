"""Keys of nodes, and who is admitted as a node: by its own key, or by the shared secret.

A request that a node signs is bound to its method, path and time, so whoever reads a token on
its way can repeat no other request with it. A node that was revoked is refused whatever it
signs with; but who knows the shared secret could call itself by another uuid, so `require_keys`
refuses all that is not signed by a known key. A primary that never joined has no key of its own:
it signs by the log's, which all who follow it know.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from attrs import define, field, frozen
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cluster.errors import AuthenticationRequired, InvalidRequest
from cluster.protocol import TOKEN_LIFE_SECONDS, verify_node_token
from cluster.state import nodes, queries
from cluster.state.database import Database
from cluster.state.nodes import KnownNode
from cluster.state.position import Head
from cluster.state.rows import Touched

KEY_FILE: Final = "node-key"
"""In the state folder of a node that has joined by its own key: 32 bytes, mode 0600."""

_PREFIX: Final = "k1."


@frozen
class NodeKey:
    """A node's own Ed25519 key."""

    private: Ed25519PrivateKey

    @property
    def public(self) -> str:
        """The public half in base64, as `node.key` records it."""
        return base64.b64encode(self.private.public_key().public_bytes_raw()).decode()

    def token(self, node: str, method: str, path: str, now: float) -> str:
        """A proof that the node with the uuid `node` sends this request now."""
        head = f"{node}.{int(now)}"
        signature = self.private.sign(_message(head, method, path))
        return f"{_PREFIX}{head}.{base64.urlsafe_b64encode(signature).decode()}"

    def raw(self) -> bytes:
        """The private half, as its file holds it."""
        return self.private.private_bytes_raw()


def read_key(path: Path) -> NodeKey | None:
    """A node's key, or None when it has none; raises InvalidRequest for a broken file."""
    try:
        return NodeKey(Ed25519PrivateKey.from_private_bytes(path.read_bytes()))
    except FileNotFoundError:
        return None
    except ValueError:
        raise InvalidRequest(f"{path} is not an Ed25519 key: remove it and join again") from None


def public_key(text: str) -> bytes:
    """The bytes of a public key in base64; raises InvalidRequest."""
    try:
        raw = base64.b64decode(text, validate=True)
        Ed25519PublicKey.from_public_bytes(raw)
    except (binascii.Error, ValueError):
        raise InvalidRequest("a node's key is base64 of an Ed25519 public key") from None
    return raw


def _message(head: str, method: str, path: str) -> bytes:
    # Clients and fronts may write the same path with other escapes; its query only chooses what
    # of one thing is asked for.
    plain = unquote_to_bytes(path.partition("?")[0])
    return f"pymirror node-key\n{head}\n{method}\n".encode() + plain


def admitted(connection: Connection) -> tuple[dict[str, KnownNode], str | None]:
    """All nodes that the log names, and the public key (base64) of its last epoch's owner."""
    epoch = queries.epoch(connection)
    return nodes.known(connection), None if epoch is None else epoch.key


@define(eq=False)
class Admission:
    """Decides which requests come from nodes of this cluster; `now` is seconds since 1970.

    `require_keys` refuses tokens made with the shared secret. `on_change` is called whenever
    keys or revocations may have changed.
    """

    _log = Logger()

    _database: Database
    _secret: Callable[[], bytes]
    _now: Callable[[], float]
    require_keys: bool = False
    on_change: Callable[[], None] = lambda: None
    _known: Mapping[str, KnownNode] = field(factory=dict)
    _owner: str | None = None

    def verify(self, token: str, method: str, path: str) -> str:
        """The uuid of the node that sent a request; raises AuthenticationRequired."""
        if token.startswith(_PREFIX):
            node = self._by_key(token.removeprefix(_PREFIX), method, path)
        elif self.require_keys:
            raise AuthenticationRequired(
                "this cluster admits nodes by their own keys alone: join with --join-token-file"
            )
        else:
            node = verify_node_token(self._secret(), token, self._now())
        known = self._known.get(node)
        if known is not None and known.revoked:
            raise AuthenticationRequired(f"node {node} was revoked")
        return node

    def revoked(self) -> list[str]:
        """All nodes that were revoked."""
        return [node for node, known in self._known.items() if known.revoked]

    def is_revoked(self, node: str) -> bool:
        """Whether a node was admitted once and is no more."""
        known = self._known.get(node)
        return known is not None and known.revoked

    def _by_key(self, token: str, method: str, path: str) -> str:
        head, _, signature = token.rpartition(".")
        node, _, issued = head.rpartition(".")
        known = self._known.get(node)
        # Who has a key of its own signs by that alone, also while it owns the log.
        text = (known.key if known else None) or self._owner
        if text is None:
            raise AuthenticationRequired(f"no key of node {node!r} is known here (yet)")
        try:
            key = Ed25519PublicKey.from_public_bytes(base64.b64decode(text))
            key.verify(base64.urlsafe_b64decode(signature), _message(head, method, path))
        except (InvalidSignature, ValueError):
            raise AuthenticationRequired(
                f"the token is not signed by the key of node {node} for this request, or that key "
                "is not known here (yet)"
            ) from None
        if not issued.isdigit() or abs(self._now() - int(issued)) > TOKEN_LIFE_SECONDS:
            raise AuthenticationRequired("the node's token has expired: are the clocks apart?")
        return node

    def changed(self, head: Head, touched: Touched) -> None:
        """Look again if nodes may have changed (a `Position` listener)."""
        if touched.indexes:
            looking = Deferred.fromCoroutine(self.reload())
            looking.addErrback(lambda failure: self._log.failure("cannot read nodes", failure))

    async def reload(self) -> None:
        """Take over what the state says now."""
        self.take(*await self._database.read(admitted))

    def take(self, known: Mapping[str, KnownNode], owner: str | None = None) -> None:
        """Admit and refuse by these from now on; `owner` is the key of who owns the log."""
        self._owner = owner
        if known != self._known:
            self._known = known
            self.on_change()
