"""Who sent a request: a user by password, a node by its token, or nobody."""

from __future__ import annotations

import base64
import binascii
import ipaddress

from attrs import define

from cluster.auth.acl import ANONYMOUS, Principal
from cluster.auth.nodes import NodeSecret
from cluster.auth.passwords import PasswordChecker
from cluster.durable import SecretBlobs
from cluster.errors import AuthenticationRequired
from cluster.protocol import CLIENT_HEADER, NODE_HEADER
from cluster.state import queries
from cluster.state.database import Database
from cluster.web.request import NodeRequest


def credentials(request: NodeRequest) -> tuple[str, str] | None:
    """User and secret from X-Devpi-Auth or Basic (RFC 7617), or None; raises on garbage."""
    devpi = request.header("X-Devpi-Auth")
    scheme, _, value = (request.header("Authorization") or "").strip().partition(" ")
    encoded = devpi or (value.strip() if scheme.lower() == "basic" else None)
    if encoded is None:
        return None
    try:
        user, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        colon = ""
    if not colon:
        raise AuthenticationRequired("the credentials are not base64 of user:password")
    return user, secret


def client_address(request: NodeRequest) -> str:
    """The address at the other end of the connection."""
    return str(getattr(request.getClientAddress(), "host", ""))


def forwarded_for(request: NodeRequest) -> str:
    """What a replica tells the primary of its client: the address, or that a front hides it."""
    is_behind_front = request.header("X-Forwarded-For") or request.header("Forwarded")
    return "forwarded" if is_behind_front else client_address(request)


def is_loopback(request: NodeRequest, node: str | None) -> bool:
    """Whether the client itself is on this machine.

    A node vouches for its client's address; anybody else who forwards for others may not use
    what is only for this machine.
    """
    address = request.header(CLIENT_HEADER) if node else forwarded_for(request)
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:
        return False


@define
class Identity:
    """Checks who sent a request against users in the state and nodes of the cluster."""

    _database: Database
    _passwords: PasswordChecker
    _blobs: SecretBlobs
    _nodes: NodeSecret

    def node(self, request: NodeRequest) -> str | None:
        """The uuid of the node that sent the request, None for others; raises on a bad token."""
        token = request.header(NODE_HEADER)
        return None if token is None else self._nodes.verify(token)

    def require_node(self, request: NodeRequest) -> str:
        """The uuid of the node that sent the request; raises AuthenticationRequired."""
        node = self.node(request)
        if node is None:
            raise AuthenticationRequired("only nodes of this cluster may ask for this")
        return node

    async def user(self, request: NodeRequest) -> Principal:
        """The user whose password came with the request; raises when it is wrong.

        An empty password counts from this machine alone.
        """
        given = credentials(request)
        if given is None:
            return ANONYMOUS
        name, secret = given
        known = await self._database.read(lambda c: queries.user(c, name))
        wrong = AuthenticationRequired(f"user {name!r} could not be authenticated")
        if known is None:
            raise wrong
        if known.password is None:
            if secret or not is_loopback(request, self.node(request)):
                raise wrong
        else:
            stored = (await self._database.readers.run(self._blobs.get, known.password)).decode()
            if not await self._passwords.check(stored, secret):
                raise wrong
        return Principal(name)
