"""What nodes say to each other: the only definition; both ends use it. See docs/protocol.md."""

from __future__ import annotations

import base64
import hmac
import struct
from collections.abc import Sequence
from typing import Final

from attrs import frozen

from cluster.errors import AuthenticationRequired, LogError

SERIAL_HEADER: Final = "X-Pymirror-Serial"
POSITION_HEADER: Final = "X-Pymirror-Position"
NODE_HEADER: Final = "X-Pymirror-Node"
REPLICA_HEADER: Final = "X-Pymirror-Replica"
CLIENT_HEADER: Final = "X-Pymirror-Client"
SOURCE_HEADER: Final = "X-Pymirror-Source"
PRIMARY_HEADER: Final = "X-Pymirror-Primary"
MIN_HEADER: Final = "X-Pymirror-Min"
VIA_HEADER: Final = "X-Pymirror-Via"
AGE_HEADER: Final = "X-Pymirror-Upstream-Age"

IDENTITY_PATH: Final = "/+log/identity"
CHECKPOINT_PATH: Final = "/+log/checkpoint"
EPOCHS_PATH: Final = "/+log/epochs"
TAIL_PATH: Final = "/+log/tail"
COSIGN_PATH: Final = "/+log/cosign"
REPORTS_PATH: Final = "/+log/reports"
NOTE_PATH: Final = "/+log/note"
EVIDENCE_PATH: Final = "/+log/evidence"
TILE_PATH: Final = "/+log/tile"
SNAPSHOTS_PATH: Final = "/+log/snapshots"
SNAPSHOT_PATH: Final = "/+log/snapshot"
REFRESH_PATH: Final = "/+node/refresh"
FILE_PATH: Final = "/+node/file"
PULL_PATH: Final = "/+node/pull"
NODES_PATH: Final = "/+nodes"
NEAREST_PATH: Final = "/+nearest"
JOIN_PATH: Final = "/+nodes/join"
INVITE_PATH: Final = "/+nodes/invite"
KEYS_PATH: Final = "/+nodes/keys"
FENCE_PATH: Final = "/+node/fence"
STATE_PATH: Final = "/+node/state"
PROJECTS_PATH: Final = "/+node/projects"
SECRET_PATH: Final = "/+node/secret"  # noqa: S105 (a path)

TAIL_TYPE: Final = "application/x-pymirror-log"
STREAM_TYPE: Final = "application/x-pymirror-log-stream"
TAIL_PAGE_BYTES: Final = 1 << 20
TAIL_PAGE_ENTRIES: Final = 1_000
# A page never ends inside a group, and a group has at most 256 parts of 64 KiB.
TAIL_PAGE_LIMIT: Final = 24 << 20

# A log of fewer entries is as fast to follow from its start.
SNAPSHOT_FROM_ENTRIES: Final = 20_000

# In this order, each shorter than the next, so that nobody gives up on an honest answer.
POLL_WAIT_SECONDS: Final = 25.0
POLL_TIMEOUT_SECONDS: Final = 40.0
FRONT_TIMEOUT_SECONDS: Final = 60.0

TOKEN_LIFE_SECONDS: Final = 300

# Replicas that follow replicas: how many nodes a request may pass on its way to the primary.
LONGEST_CHAIN: Final = 8


@frozen
class TailPage:
    """A bounded piece of the log and a signed checkpoint for exactly its last entry."""

    entries: Sequence[bytes]
    checkpoint: bytes


def encode_tail(page: TailPage) -> bytes:
    """Entries as JSON lines, an empty line, the signed note."""
    return b"".join(entry + b"\n" for entry in page.entries) + b"\n" + page.checkpoint


def decode_tail(body: bytes) -> TailPage:
    """The reverse of encode_tail; raises LogError. Entries are not looked into."""
    if body.startswith(b"\n"):
        return TailPage((), body[1:])
    lines, empty, checkpoint = body.partition(b"\n\n")
    if not empty:
        raise LogError("a page of the log has no end")
    return TailPage(lines.split(b"\n"), checkpoint)


FRAME: Final = struct.Struct("!BQI")
"""What comes before each frame of a stream: its kind, the sender's head, how many bytes follow."""
TELL: Final = 0
"""A frame without bytes: say now how far you are, somebody waits for that."""
PAGE_ENCODINGS: Final = (None, "zstd", "gzip")
"""The encodings of frames of the kinds 1, 2 and 3, each of which is a page."""


def encode_frame(body: bytes, encoding: str | None, head: int) -> bytes:
    """A page as a frame of a stream of a primary whose last entry is `head`."""
    return FRAME.pack(PAGE_ENCODINGS.index(encoding) + 1, head, len(body)) + body


def node_token(secret: bytes, node: str, now: float) -> str:
    """A short-lived proof that a request comes from a node that holds the shared secret."""
    message = f"{node}.{int(now)}"
    return f"{message}.{_mac(secret, 'node', message)}"


def verify_node_token(secret: bytes, token: str, now: float) -> str:
    """The uuid of the node that made a token; raises AuthenticationRequired."""
    message, _, mac = token.rpartition(".")
    node, _, issued = message.rpartition(".")
    if not hmac.compare_digest(mac.encode(), _mac(secret, "node", message).encode()):
        raise AuthenticationRequired("the node's token is not made with this cluster's secret")
    if not issued.isdigit() or abs(now - int(issued)) > TOKEN_LIFE_SECONDS:
        raise AuthenticationRequired("the node's token has expired: are the clocks apart?")
    return node


def identity_proof(secret: bytes, nonce: str, log: str, key: str) -> str:
    """A primary's answer to a joining node's nonce: it holds the secret, and this is its log."""
    return _mac(secret, "identity", f"{nonce}\n{log}\n{key}")


def _mac(secret: bytes, purpose: str, message: str) -> str:
    # The purpose keeps a proof made for one use from serving another.
    digest = hmac.digest(secret, f"pymirror {purpose}\n{message}".encode(), "sha256")
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def log_origin(log: str) -> str:
    """The origin line of a log's checkpoints, also the name of its key."""
    return f"pymirror/{log}"
