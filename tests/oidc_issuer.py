"""A CI's issuer of identity tokens, on this machine: keys, signed claims, and its HTTP side.

`Issuer` signs anything a test asks for, also what no honest issuer would; `serving` puts its
configuration, its keys and a CI's token endpoint on a loopback port, from a thread.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from attrs import define, field
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
REQUEST_TOKEN = "what a CI gives its jobs"


def segment(value: Mapping[str, Any] | bytes) -> str:
    """A part of a JWT."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@define
class Issuer:
    """Signs claims with the key `kid`; `claims` are those of the job that asks for a token."""

    url: str
    claims: Mapping[str, Any] = field(factory=dict)
    kid: str = "rsa-1"
    keys: dict[str, PrivateKey] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.keys["rsa-1"] = rsa.generate_private_key(65537, 2048)
        self.keys["ec-1"] = ec.generate_private_key(ec.SECP256R1())

    def job(self, now: float, **changed: Any) -> dict[str, Any]:
        """The claims of a job at `now`; None leaves a claim out."""
        claims = {
            "iss": self.url, "aud": "pymirror", "sub": "job", "iat": int(now), "nbf": int(now),
            "exp": int(now) + 300, "jti": secrets.token_hex(8), **self.claims, **changed,
        }  # fmt: skip
        return {name: value for name, value in claims.items() if value is not None}

    def sign(self, claims: Mapping[str, Any], by: str = "", **header: Any) -> str:
        """A token by one of the keys; `header` is merged into its header."""
        by = by or self.kid
        key = self.keys[by]
        algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        return jwt.encode(dict(claims), key, algorithm, headers={"kid": by, **header})

    def unsigned(self, claims: Mapping[str, Any]) -> str:
        """A token of the algorithm "none"."""
        return f"{segment({'alg': 'none', 'typ': 'JWT', 'kid': self.kid})}.{segment(claims)}."

    def confused(self, claims: Mapping[str, Any]) -> str:
        """An HS256 token whose secret is the public key, which everybody has."""
        pem = self.keys[self.kid].public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )  # fmt: skip
        text = f"{segment({'alg': 'HS256', 'typ': 'JWT', 'kid': self.kid})}.{segment(claims)}"
        return f"{text}.{segment(hmac.new(pem, text.encode(), hashlib.sha256).digest())}"

    def configuration(self) -> dict[str, Any]:
        """OpenID Connect Discovery 1.0 §4."""
        return {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}

    def jwks(self) -> dict[str, Any]:
        """The public keys, beside one that no verifier may use."""
        shared = {"kty": "oct", "kid": "shared", "k": segment(b"secret")}
        return {"keys": [shared, *(self._public(kid) for kid in self.keys)]}

    def _public(self, kid: str) -> dict[str, Any]:
        key = self.keys[kid].public_key()
        if isinstance(key, rsa.RSAPublicKey):
            public = RSAAlgorithm.to_jwk(key, as_dict=True)
        else:
            public = ECAlgorithm.to_jwk(key, as_dict=True)
        return {**public, "kid": kid, "use": "sig"}


@contextmanager
def serving(claims: Mapping[str, Any], now: Callable[[], float]) -> Iterator[Issuer]:
    """An issuer on a free port, whose jobs have `claims`; ends with the ``with`` block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.issuer = Issuer(f"http://127.0.0.1:{server.server_port}", claims)  # type: ignore[attr-defined]
    server.now = now  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.issuer  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """The issuer's documents, and a CI's endpoint for tokens."""
        issuer: Issuer = self.server.issuer  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        if parts.path == "/.well-known/openid-configuration":
            self._send(issuer.configuration())
        elif parts.path == "/jwks":
            self._send(issuer.jwks())
        elif parts.path == "/job" and REQUEST_TOKEN in self.headers.get("Authorization", ""):
            audience = parse_qs(parts.query)["audience"][0]
            claims = issuer.job(self.server.now(), aud=audience)  # type: ignore[attr-defined]
            self._send({"value": issuer.sign(claims)})
        else:
            self.send_error(404)

    def _send(self, document: Mapping[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
