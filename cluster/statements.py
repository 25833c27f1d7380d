"""What a replica says of itself through others: signed by itself, so that they cannot change it.

A replica behind a replica has no connection to the primary. It makes a statement, and each
replica on the way passes it on and adds itself to `via`, which alone is not signed.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import orjson
from attrs import evolve, frozen

from cluster.errors import AuthenticationRequired, InvalidRequest, LoopDetected
from cluster.protocol import LONGEST_CHAIN, REPORTS_PATH

MOST_AT_ONCE: Final = 50
"""Statements in one request: with the longest reports it stays below what a body may have."""
MOST_TEXT: Final = 6_000
_MOST_LOST: Final = 1_000
_MOST_NAME: Final = 100
_ROOT_BYTES: Final = 32
_MOST: Final = 2**53
# Not a method of HTTP: no token for a request can be taken for one of a statement, nor the reverse.
_METHOD: Final = "REPORT"

Sign = Callable[[str, str], str]
"""Makes this node's token for a method and a path."""
Verify = Callable[[str, str, str], str]
"""The uuid of the node that made a token for a method and a path; raises AuthenticationRequired."""


@frozen
class Statement:
    """A replica's own words: `at` (seconds since 1970, by its clock) it held `position` entries
    with the Merkle root `root` (base64); `report` is the JSON that polls carry.

    `via` are the replicas that it came through, the one that `node` follows first.
    """

    node: str
    at: float
    position: int
    root: str
    report: str
    text: str
    proof: str
    via: tuple[str, ...] = ()

    def passed(self, own: str) -> Statement:
        """The same after it came through the node `own`; raises LoopDetected."""
        if own in (self.node, *self.via):
            raise LoopDetected(f"what node {self.node} says of itself came to {own} again")
        if len(self.via) >= LONGEST_CHAIN:
            raise LoopDetected(f"node {self.node} is behind more than {LONGEST_CHAIN} replicas")
        return evolve(self, via=(*self.via, own))

    def require(self, sender: str, verify: Verify) -> None:
        """Check that the node said so itself, and that `sender` is the last it came through.

        Raises AuthenticationRequired.
        """
        if (self.node, *self.via)[-1] != sender:
            raise AuthenticationRequired(f"node {sender} passes on what did not come through it")
        if verify(self.proof, _METHOD, _path(self.text)) != self.node:
            raise AuthenticationRequired(f"node {self.node} has not said this of itself")

    def to_json(self) -> dict[str, Any]:
        """As `POST /+log/reports` carries it."""
        return {"text": self.text, "proof": self.proof, "via": self.via}


def make(
    node: str, at: float, position: int, root: bytes, report: Mapping[str, Any], sign: Sign
) -> Statement:
    """A statement by the node itself."""
    encoded = base64.b64encode(root).decode()
    said = {"node": node, "at": at, "position": position, "root": encoded, "report": report}
    text, own = orjson.dumps(said).decode(), orjson.dumps(report).decode()
    return Statement(node, at, position, encoded, own, text, sign(_METHOD, _path(text)))


def encode(statements: Iterable[Statement], lost: Iterable[str]) -> bytes:
    """The body of `POST /+log/reports`."""
    listed = [one.to_json() for one in statements]
    return orjson.dumps({"reports": listed, "lost": [*lost][:_MOST_LOST]})


def decode(body: bytes) -> tuple[list[Statement], list[str]]:
    """The reverse of `encode`; nothing is verified yet. Raises InvalidRequest."""
    try:
        values = orjson.loads(body)
        listed, lost = values["reports"], values["lost"]
        return [_statement(one) for one in listed[:MOST_AT_ONCE]], _names(lost, _MOST_LOST)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InvalidRequest(f"that is not a list of statements: {error!r}") from None


def _statement(values: Mapping[str, Any]) -> Statement:
    text, proof = str(values["text"]), str(values["proof"])
    via = tuple(_names(values["via"], LONGEST_CHAIN + 1))
    if len(text) > MOST_TEXT:
        raise ValueError("a statement is too long")
    said = orjson.loads(text)
    at, position, report = float(said["at"]), said["position"], said["report"]
    node, root = _names([said["node"]], 1)[0], str(said["root"])
    if type(position) is not int or not 0 <= position <= _MOST or not math.isfinite(at):
        raise ValueError("position or time is out of range")
    if not isinstance(report, dict) or not _is_root(root):
        raise ValueError("report or root is malformed")
    return Statement(node, at, position, root, orjson.dumps(report).decode(), text, proof, via)


def _is_root(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == _ROOT_BYTES
    except binascii.Error:
        return False


def _names(values: Sequence[Any], most: int) -> list[str]:
    names = [str(one) for one in values]
    if len(names) > most or any(not 0 < len(one) <= _MOST_NAME for one in names):
        raise ValueError("a list of nodes is malformed")
    return names


def _path(text: str) -> str:
    return f"{REPORTS_PATH}/{sha256(text.encode()).hexdigest()}"
