"""Users and indexes of a primary over HTTP, in memory: what the devpi tests talk to."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import orjson
from attrs import define, field, frozen
from klein import Klein
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from cluster.auth.limits import GuessLimits
from cluster.auth.nodes import NodeSecret
from cluster.auth.passwords import PasswordChecker
from cluster.durable import SecretBlobs
from cluster.log import changelog
from cluster.log.changes import Change, Entry
from cluster.protocol import SERIAL_HEADER
from cluster.state.database import Database
from cluster.state.directory import Directory
from cluster.state.freshness import Freshness, Outcome
from cluster.state.position import Position
from cluster.threads import Inline
from cluster.upstream.ondemand import MirrorAnswer
from cluster.web.devpi import discovery, indexes, users
from cluster.web.devpi.discovery import Discovery
from cluster.web.devpi.indexes import IndexPages
from cluster.web.devpi.users import UserPages
from cluster.web.identity import Identity
from cluster.web.request import NodeRequest, NodeSite
from primary.devpi import indexes as index_writes
from primary.devpi import users as user_writes
from primary.devpi.indexes import IndexResource
from primary.devpi.users import UserResource
from primary.writer import Writer
from tests.fakes import NOW, as_clock, database, position, user_set, writer

HERE = "127.0.0.1"
ELSEWHERE = "192.0.2.7"
JSON = "application/json"


@define
class FakeMirror:
    """What an upstream has to say of its list of projects."""

    error: str | None = None
    asked: list[str] = field(factory=list)

    async def ensure(self, index: Any, project: str) -> MirrorAnswer:
        self.asked.append(index.name)
        outcome = Outcome.FOUND if self.error is None else Outcome.ERROR
        return MirrorAnswer(Freshness(outcome, NOW, error=self.error))


@define
class Web:
    """The application under test."""

    app = Klein()

    clock: Clock
    position: Position
    identity: Identity
    discovery: Discovery
    user_pages: UserPages
    index_pages: IndexPages
    users: UserResource
    indexes: IndexResource

    def common_headers(self) -> dict[bytes, bytes]:
        return {SERIAL_HEADER.encode(): str(self.position.serial).encode()}

    def stream_handler(self, request: NodeRequest) -> None:
        return None

    def serve_hot(self, request: NodeRequest) -> bool:
        return False


for module in (discovery, users, indexes, user_writes, index_writes):
    module.add_routes(Web.app)


@frozen
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def result(self) -> Any:
        assert self.status in (200, 201), self
        return self.json["result"]

    @property
    def message(self) -> str:
        return str(self.json["message"])


@define
class DevpiSite:
    """A primary's users and indexes; `now` is the wall clock, in seconds since 1970."""

    web: Web
    database: Database
    writer: Writer
    blobs: SecretBlobs
    mirror: FakeMirror
    now: list[float]

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        auth: tuple[str, str] | None = ("root", ""),
        *,
        accept: str = JSON,
        address: str = HERE,
        agent: str = "devpi-client/7",
    ) -> Answer:
        """One request; all work is done at once, so its answer is there when this returns."""
        data = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        head = [f"{method} {path} HTTP/1.1", "Host: mirror.example", f"Accept: {accept}",
                f"User-Agent: {agent}", f"Content-Length: {len(data)}"]  # fmt: skip
        if auth is not None:
            head.append("X-Devpi-Auth: " + base64.b64encode(":".join(auth).encode()).decode())
        return self.send("\r\n".join([*head, "", ""]).encode() + data, address)

    def send(self, data: bytes, address: str = HERE) -> Answer:
        """One request as bytes."""
        channel: Any = NodeSite(self.web.app.resource(), cast(Any, self.web)).buildProtocol(None)
        transport = StringTransport(peerAddress=IPv4Address("TCP", address, 1))
        channel.makeConnection(transport)
        channel.dataReceived(data)
        return _answer(bytes(transport.value()))

    def write(self, *changes: Change) -> None:
        """Record changes as they are."""
        Deferred.fromCoroutine(self.writer.write("root", lambda c: changes))

    def user(self, name: str) -> tuple[str, str]:
        """A new user's name and password."""
        assert self.call("PUT", f"/{name}", {"password": f"{name}'s"}).status == 201
        return name, f"{name}'s"

    def log(self) -> list[Entry]:
        """All entries."""
        with self.database.engine.begin() as connection:
            return list(changelog.entries(connection))


def _answer(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return Answer(int(first.split()[1]), {k.lower(): v for k, _, v in pairs}, body)


@contextmanager
def devpi_site(folder: Path, restrict: frozenset[str] | None = None) -> Iterator[DevpiSite]:
    """A site with the user root, whose password is empty."""
    with database() as state:
        clock, now, blobs, at = Clock(), [NOW], SecretBlobs(folder / "secrets"), position()
        secret = NodeSecret(b"the secret of this test cluster", lambda: now[0])
        identity = Identity(
            Directory.following(state, at), PasswordChecker(Inline(), as_clock(clock)), blobs,
            secret, GuessLimits(as_clock(clock)), lambda: now[0], lambda token: None,
        )  # fmt: skip
        write, mirror = writer(state, at), FakeMirror()
        web = Web(
            clock, at, identity, Discovery(identity, state, None),
            UserPages(identity, state, "primary"),
            IndexPages(identity, state, cast(Any, mirror)),
            UserResource(
                identity, state, write, blobs, Inline(),
                lambda: datetime.fromtimestamp(now[0], UTC), restrict,
            ),
            IndexResource(identity, state, write, blobs, Inline(), restrict),
        )  # fmt: skip
        site = DevpiSite(web, state, write, blobs, mirror, now)
        site.write(user_set("root"))
        yield site
