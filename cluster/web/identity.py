"""Who sent a request: a user by password, login token or API token; a node; or nobody."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Awaitable, Callable

from attrs import define

from cluster.auth import tokens
from cluster.auth.acl import ANONYMOUS, ROOT, Principal
from cluster.auth.limits import UNKNOWN_USER, GuessLimits
from cluster.auth.logins import login_user, make_login, verify_login
from cluster.auth.nodekeys import Admission
from cluster.auth.nodes import NodeSecret
from cluster.auth.passwords import PasswordChecker, needs_upgrade
from cluster.durable import SecretBlobs
from cluster.errors import AuthenticationRequired, TooManyRequests
from cluster.model import User
from cluster.networks import Networks, client_of
from cluster.protocol import CLIENT_HEADER, NODE_HEADER
from cluster.state.directory import Directory
from cluster.web.request import NodeRequest

Weak = Callable[[User, str], Awaitable[None]]
"""Told of a right password whose stored hash should be replaced by a stronger one."""


def credentials(request: NodeRequest) -> tuple[str, str] | None:
    """User and secret from X-Devpi-Auth, Basic (RFC 7617) or Bearer (RFC 6750), or None.

    Raises AuthenticationRequired for garbage.
    """
    devpi = request.header("X-Devpi-Auth")
    scheme, _, value = (request.header("Authorization") or "").strip().partition(" ")
    if devpi is None and scheme.lower() == "bearer":
        return tokens.TOKEN_USER, value.strip()
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


def forwarded_hops(request: NodeRequest) -> str:
    """All of X-Forwarded-For: some fronts add a header instead of to a header."""
    values = request.requestHeaders.getRawHeaders(b"X-Forwarded-For") or ()
    return ",".join(value.decode("ascii", "replace") for value in values)


def forwarded_for(request: NodeRequest, trusted: Networks) -> str:
    """What a replica tells the primary of its client: the address, or that a front hides it.

    A front whose address is in `trusted` is believed. Who comes through a front is never on
    this machine: a loopback address behind one is that front's own machine.
    """
    hops = forwarded_hops(request)
    if not hops and not request.header("Forwarded"):
        return client_address(request)
    peer = client_of(client_address(request), None, ())
    found = client_of(client_address(request), hops, trusted)
    return "forwarded" if found is None or found == peer or found.is_loopback else str(found)


def is_loopback(address: str) -> bool:
    """Whether an address is of this machine."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


@define
class Identity:
    """Checks who sent a request against users and tokens in the state, and nodes of the cluster.

    `allow_empty` lets an empty password count from everywhere, not only from this machine.
    `trusted` are the networks of fronts that are believed. `used` hears the id of each API token
    that was accepted. `weak` is None on a replica, which cannot change a password.
    `admission` knows nodes' keys and who was revoked; without it the shared secret decides alone.
    """

    _directory: Directory
    _passwords: PasswordChecker
    _blobs: SecretBlobs
    _nodes: NodeSecret
    _guesses: GuessLimits
    _now: Callable[[], float]
    _used: Callable[[str], None]
    allow_empty: bool = False
    weak: Weak | None = None
    trusted: Networks = ()
    admission: Admission | None = None

    def node(self, request: NodeRequest) -> str | None:
        """The uuid of the node that sent the request, None for others; raises on a bad token."""
        token = request.header(NODE_HEADER)
        if token is None:
            return None
        method = request.method.decode("ascii", "replace")
        return self.signer(token, method, request.uri.decode("ascii", "replace"))

    def signer(self, token: str, method: str, path: str) -> str:
        """The uuid of the node that made a token; raises AuthenticationRequired."""
        if self.admission is None:
            return self._nodes.verify(token)
        return self.admission.verify(token, method, path)

    def require_node(self, request: NodeRequest, *, for_client: bool = False) -> str:
        """The uuid of the node that sent the request; raises AuthenticationRequired.

        What a node passes on for a client does not count as its own wish, unless `for_client`.
        """
        node = self.node(request)
        if node is None or (request.header(CLIENT_HEADER) is not None and not for_client):
            raise AuthenticationRequired("only nodes of this cluster may ask for this")
        return node

    def require_admitted(self, node: str) -> None:
        """Raises AuthenticationRequired if a node, known by its token before, was revoked since."""
        if self.admission is not None and self.admission.is_revoked(node):
            raise AuthenticationRequired(f"node {node} was revoked")

    async def require_copier(self, request: NodeRequest) -> Principal:
        """Who may copy the whole log without being a node: root's API token for that, no limits.

        Raises AuthenticationRequired.
        """
        who = await self.user(request)
        limits = who.token
        whole = limits is not None and not limits.indexes and not limits.projects
        if (
            limits is None
            or not whole
            or who.name != ROOT
            or tokens.REPLICATE not in limits.actions
        ):
            raise AuthenticationRequired("only nodes, and root's tokens to replicate, may ask this")
        return who

    async def reader(self, request: NodeRequest) -> Principal:
        """Who wants to read: wrong credentials count as none, as everywhere (devpi-api §1)."""
        try:
            return await self.user(request)
        except (AuthenticationRequired, TooManyRequests):
            return ANONYMOUS

    async def user(self, request: NodeRequest) -> Principal:
        """Who sent the request, ANONYMOUS without credentials.

        Raises AuthenticationRequired when they are wrong, TooManyRequests for guessing.
        """
        given = credentials(request)
        return ANONYMOUS if given is None else await self._known(request, *given)

    async def login(self, request: NodeRequest, name: str, password: str) -> str:
        """A login token for a user whose password is right; raises as `user`.

        A login token does not get another one: who stole it could renew it for ever.
        """
        if login_user(password) is not None:
            raise _wrong(name)
        who = await self._known(request, name, password)
        user = await self._user(who.name or "")
        if user is None or who.token is not None:
            raise _wrong(name)
        return make_login(self._nodes.secret, user, self._now())

    async def _known(self, request: NodeRequest, name: str, secret: str) -> Principal:
        api_token = tokens.parse(secret)
        if api_token is not None:
            return await self._by_token(name, *api_token)
        user = await self._user(name)
        if login_user(secret) is not None:
            if login_user(secret) != name:
                raise _wrong(name)
            return Principal(verify_login(self._nodes.secret, secret, user, self._now()))
        address = self.address(request)
        with self._guesses.attempt(name, address):
            if not await self._is_password(user, secret, address):
                self._guesses.failed(name, address)
                raise _wrong(name)
        self._guesses.succeeded(name, address)
        return Principal(name)

    async def _by_token(self, name: str, id: str, secret: str) -> Principal:
        payload = await self._directory.token(id)
        token = None if payload is None else tokens.ApiToken.from_payload(payload)
        genuine = tokens.verify(token, secret, self._now())
        if token is None or not genuine or name not in (tokens.TOKEN_USER, token.user):
            raise AuthenticationRequired("the API token is not valid (any more)")
        self._used(token.id)
        return Principal(token.user, token.limits)

    async def _is_password(self, user: User | None, secret: str, address: str) -> bool:
        if user is not None and user.password is None:
            return not secret and (self.allow_empty or is_loopback(address))
        stored = UNKNOWN_USER if user is None else await self._stored(user)
        if not await self._passwords.check(stored, secret) or user is None:
            return False
        if self.weak is not None and needs_upgrade(stored):
            await self.weak(user, secret)
        return True

    async def _stored(self, user: User) -> str:
        assert user.password is not None  # noqa: S101 (the caller has looked)
        return (await self._directory.database.readers.run(self._blobs.get, user.password)).decode()

    async def _user(self, name: str) -> User | None:
        return await self._directory.user(name)

    def address(self, request: NodeRequest) -> str:
        """The client's address as far as it can be believed; raises on a bad node token."""
        # A node vouches for its client's address; anybody else who forwards for others may not
        # use what is only for this machine.
        if self.node(request):
            return request.header(CLIENT_HEADER) or ""
        return forwarded_for(request, self.trusted)


def _wrong(name: str) -> AuthenticationRequired:
    return AuthenticationRequired(f"user {name!r} could not be authenticated")
