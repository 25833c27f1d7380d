"""Proof that a request comes from a node of this cluster."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from attrs import define, field

from cluster.auth.nodekeys import NodeKey
from cluster.errors import InvalidRequest
from cluster.protocol import node_token, verify_node_token

SECRET_BYTES = 32
_LEAST_BYTES = 16


def make_secret() -> bytes:
    """A new shared secret, as its file holds it."""
    return secrets.token_hex(SECRET_BYTES).encode() + b"\n"


def _long_enough(_: object, __: object, value: bytes) -> None:
    # An empty file, as a broken copy leaves it, would let anybody be a node.
    if len(value.strip()) < _LEAST_BYTES:
        raise InvalidRequest(f"the secret file holds less than {_LEAST_BYTES} bytes: copy it anew")


@define
class NodeSecret:
    """The secret that the nodes of a cluster share, this node's own key if it joined by one, and
    the wall clock that tokens expire by.

    `offset_seconds` is how far the primary's clock is ahead of ours, learned from its answers:
    a node with a wrong clock must still be able to join. `owner` is the key of the log, on the
    primary of a cluster where the secret proves nothing.
    """

    _secret: bytes = field(validator=_long_enough)
    _now: Callable[[], float]
    offset_seconds: float = 0.0
    key: NodeKey | None = None
    owner: NodeKey | None = None

    @property
    def secret(self) -> bytes:
        """The secret without white space around it."""
        return self._secret.strip()

    def token(self, node: str, method: str = "", path: str = "") -> str:
        """A token for a request by `node` (a uuid): signed with its key, for this request alone,
        if it has one and knows the request; else made with the shared secret.
        """
        now = self._now() + self.offset_seconds
        if self.key is not None and path:
            return self.key.token(node, method, path, now)
        return node_token(self.secret, node, now)

    def token_for_followers(self, node: str, method: str, path: str) -> str:
        """The same for a request to a node that follows this one, if anybody does: it knows the
        key of the log, which others may not (yet).
        """
        if self.key is not None or self.owner is None:
            return self.token(node, method, path)
        return self.owner.token(node, method, path, self._now() + self.offset_seconds)

    def verify(self, token: str) -> str:
        """The uuid of the node that sent a token; raises AuthenticationRequired."""
        return verify_node_token(self.secret, token, self._now())
