"""Join tokens: how a new node gets the cluster's secret without anybody copying a file (pure).

The text ``pymjoin_<id>_<end>_<secret>`` is shown once. Its secret follows from the primary's
private key, so nothing is kept of an invitation; that it was used is in the log. The secret
itself never travels: the new node proves by an HMAC that it knows it, and the answer is sealed
with a key that follows from it, so that only who was invited reads the answer, and knows that
it comes from who invited.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
from hashlib import sha256
from typing import Final

from attrs import frozen
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cluster.errors import AuthenticationRequired, InvalidRequest

_TEXT: Final = re.compile(r"pymjoin_([0-9a-f]{16})_([0-9]{1,12})_([A-Za-z0-9_-]{43})", re.ASCII)
_NONCE_BYTES: Final = 12


@frozen
class JoinToken:
    """An invitation: its id, when it ends (seconds since 1970), and what only the two know."""

    id: str
    ends: int
    secret: bytes

    @property
    def text(self) -> str:
        """As the operator hands it to the new node."""
        value = base64.urlsafe_b64encode(self.secret).decode().rstrip("=")
        return f"pymjoin_{self.id}_{self.ends}_{value}"


@frozen
class JoinRequest:
    """What a new node says of itself; `key` is its public key in base64, `nonce` is random."""

    node: str
    key: str
    name: str
    nonce: str

    def proof(self, token: JoinToken) -> str:
        """That the sender knows the token, and has said exactly this."""
        lines = "\n".join(("pymirror join", token.id, self.node, self.key, self.name, self.nonce))
        mac = hmac.new(token.secret, lines.encode(), sha256).digest()
        return base64.urlsafe_b64encode(mac).decode().rstrip("=")

    def seal(self, token: JoinToken, log: str, log_key: str, secret: bytes) -> str:
        """The cluster's secret, readable and believed only by who knows the token."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        box = ChaCha20Poly1305(self._box_key(token))
        return base64.b64encode(
            nonce + box.encrypt(nonce, secret, self._context(log, log_key))
        ).decode()

    def open(self, token: JoinToken, log: str, log_key: str, sealed: str) -> bytes:
        """The reverse of `seal`; raises AuthenticationRequired for another's answer."""
        try:
            raw = base64.b64decode(sealed, validate=True)
            box = ChaCha20Poly1305(self._box_key(token))
            return box.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], self._context(log, log_key))
        except (binascii.Error, ValueError, InvalidTag):
            raise AuthenticationRequired("the answer is not by who made the join token") from None

    def _context(self, log: str, log_key: str) -> bytes:
        return "\n".join((self.node, self.key, self.nonce, log, log_key)).encode()

    def _box_key(self, token: JoinToken) -> bytes:
        return _derived(token.secret, "pymirror join answer", self.nonce)


def invitation(private: bytes, id: str, ends: int) -> JoinToken:
    """The invitation with this id and end by the primary whose private key this is."""
    return JoinToken(id, ends, _derived(private, "pymirror invitation", f"{id}\n{ends}"))


def new_invitation(private: bytes, ends: int) -> JoinToken:
    """An invitation with a new id."""
    return invitation(private, secrets.token_hex(8), ends)


def parse(text: str) -> JoinToken:
    """The reverse of `JoinToken.text`; raises InvalidRequest."""
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest("that is not a join token, as `pymirror node invite` prints it")
    id, ends, secret = match.groups()
    return JoinToken(id, int(ends), base64.urlsafe_b64decode(secret + "="))


def _derived(secret: bytes, purpose: str, what: str) -> bytes:
    return HKDF(SHA256(), 32, None, f"{purpose}\n{what}".encode()).derive(secret)
