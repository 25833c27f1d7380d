"""Hostile and broken upstreams, asked over real connections: nothing of theirs reaches the log."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
import zstandard
from attrs import define, evolve, field
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import ContextFactory

from cluster.agent import make_agent
from cluster.durable import SecretBlobs
from cluster.log.changes import Change, Kind
from cluster.model import MirrorIndex
from cluster.names import normalize
from cluster.state import queries
from cluster.state.database import Database
from cluster.state.freshness import Freshness, Outcome
from cluster.state.options import to_options
from cluster.threads import Inline
from cluster.upstream import client as upstream_client
from cluster.upstream.client import UpstreamClient
from cluster.upstream.credentials import UpstreamCredentials
from cluster.upstream.health import UpstreamHealth
from cluster.upstream.ondemand import ERROR_SECONDS, expiry
from primary.mirroring.refresh import UpstreamRefresher
from tests.fakes import NOW, START, as_clock, database, writer
from tests.strategies import mirror

JSON = "application/vnd.pypi.simple.v1+json"
PATH = "/simple/foo/"
YEAR = 365 * 24 * 3_600
tcp: Any = reactor


def page(*versions: str, serial: int | None = None) -> bytes:
    """A project's page in JSON; `serial` is the upstream's."""
    files = [
        {"filename": f"foo-{v}.tar.gz", "url": f"foo-{v}.tar.gz", "hashes": {"sha256": "0" * 64}}
        for v in versions
    ]
    meta = {"api-version": "1.1"} | ({} if serial is None else {"_last-serial": serial})
    return json.dumps({"meta": meta, "name": "foo", "files": files}).encode()


def answer(body: bytes, status: str = "200 OK", kind: str = JSON, **headers: object) -> bytes:
    """A whole answer as bytes; header names are given with underscores, None leaves one out."""
    named: dict[str, object] = {"Content_Type": kind, "Content_Length": len(body), **headers}
    lines = [f"{k.replace('_', '-')}: {v}" for k, v in named.items() if v is not None]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body


def moved(to: str) -> bytes:
    """A redirect."""
    return answer(b"", "302 Found", Location=to)


GOOD = answer(page("1.0"))
NEWER = answer(page("1.0", "1.1"))


class Wire(Protocol):
    """Answers each request with the bytes that its path has, and hangs up."""

    def connectionMade(self) -> None:
        """Nothing was asked yet."""
        self.asked = b""

    def dataReceived(self, data: bytes) -> None:
        """Answer once the request is whole."""
        self.asked += data
        server, transport = cast(Server, self.factory), cast(Any, self.transport)
        if b"\r\n\r\n" in self.asked:
            head, self.asked = self.asked.decode(), b""
            server.requests.append(head)
            transport.write(server.answers.get(head.split()[1], answer(b"", "404 no")))
            transport.loseConnection()


@define(eq=False)
class Server(Factory):
    """What an upstream answers by path, and what it was asked."""

    answers: dict[str, bytes] = field(factory=dict)
    requests: list[str] = field(factory=list)
    port: int = 0

    protocol = Wire
    noisy = False

    @property
    def url(self) -> str:
        """Its simple API."""
        return f"http://127.0.0.1:{self.port}/simple/"


@define
class Site:
    """A primary's mirror of a server."""

    server: Server
    index: MirrorIndex
    database: Database
    refresher: UpstreamRefresher
    health: UpstreamHealth
    now: list[float]
    known: Freshness | None = None

    async def ask(self, says: bytes) -> Freshness:
        """The server says this of the project, and is asked."""
        self.server.answers[PATH] = says
        answer = await self.refresher.refresh(self.index, "foo", self.known)
        self.known = answer.freshness
        return self.known

    def files(self) -> list[str]:
        """The names of the project's files in the state."""
        with self.database.engine.begin() as connection:
            name = normalize("foo")
            return [
                one.filename for one in queries.project_files(connection, self.index.name, name)
            ]

    def serial(self) -> int:
        """The head of the log."""
        with self.database.engine.begin() as connection:
            return queries.head(connection).serial


@asynccontextmanager
async def mirror_of(server: Server, folder: Path, url: str) -> AsyncIterator[Site]:
    """A site whose mirror has that URL and the credentials bob:secret."""
    with database() as made:
        blobs, now = SecretBlobs(folder / "secrets"), [NOW]
        secrets = blobs.add(b'{"mirror_credentials": "bob:secret"}')
        index = evolve(mirror(), mirror_url=url, secrets=secrets)
        client = UpstreamClient(
            make_agent(reactor), as_clock(tcp), UpstreamCredentials(blobs, Inline())
        )
        health = UpstreamHealth(lambda: now[0])
        write = writer(made)
        payload = {"index": index.name, "type": "mirror", "options": to_options(index)}
        await write.write("root", lambda c: [START, Change(Kind.INDEX_SET, payload)])
        refresher = UpstreamRefresher(
            client, write, made, Inline(), health, cast(Any, None), lambda: now[0]
        )
        yield Site(server, index, made, refresher, health, now)


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    port = tcp.listenTCP(0, made, interface="127.0.0.1")
    made.port = port.getHost().port
    yield made
    await port.stopListening()


def too_many_headers() -> bytes:
    """A megabyte of them, each one small."""
    return answer(page("1.0"), **{f"X-{number}": "a" * 1_000 for number in range(1_000)})


def bomb() -> bytes:
    """Zeros that are a thousand times as large as they look."""
    return answer(gzip.compress(bytes(65 << 20), 1), Content_Encoding="gzip")


FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "gzip-bomb": (bomb, "the compressed page is too large"),
    "zstd": (
        lambda: answer(zstandard.compress(page("1.0")), Content_Encoding="zstd"),
        "an encoding we did not ask for: zstd",
    ),
    "304-unasked": (lambda: answer(b"", "304 Not Modified"), "304 to an unconditional request"),
    "html-notice": (
        lambda: answer(b"<html><p>Back at noon</p></html>", kind="text/html"), "no files at all",
    ),
    "no-end": (
        lambda: answer(b'<html><a href="foo-1.1.zip">', kind="text/html", Content_Length=None),
        "neither a length nor an end",
    ),
    "redirect-loop": (lambda: moved(PATH), "redirect"),
    "redirect-file": (lambda: moved("file:///etc/passwd"), "SchemeNotSupported"),
    "redirect-nowhere": (lambda: moved(""), "redirect"),
    "429": (
        lambda: answer(b"slow down", "429 Too Many Requests", Retry_After=YEAR), "answered 429"
    ),
    "many-headers": (too_many_headers, "headers are too large"),
    "long-header": (lambda: answer(page("1.0"), X_Long="a" * (1 << 20)), "Connection"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest_twisted.ensureDeferred
async def test_fault_of_a_page(server: Server, tmp_path: Path, fault: str) -> None:
    """A bad answer is an error that names its cause; nothing of it is logged, what was known
    stays, the upstream is asked again in seconds, and its next good page is taken."""
    bad, words = FAULTS[fault]
    async with mirror_of(server, tmp_path, server.url) as site:
        good = await site.ask(GOOD)
        assert (good.outcome, site.files()) == (Outcome.FOUND, ["foo-1.0.tar.gz"])
        serial, asked = site.serial(), len(server.requests)
        wrong = await site.ask(bad())
        assert wrong.outcome is Outcome.ERROR
        assert re.search(words, wrong.error or "", re.IGNORECASE), wrong.error
        assert wrong.succeeded_at == good.succeeded_at
        assert expiry(site.index, wrong) <= ERROR_SECONDS
        assert site.health.document()[site.index.name]["failing"]["foo"]["error"] == wrong.error
        assert site.serial() == serial
        assert len(server.requests) - asked <= 6
        assert (await site.ask(NEWER)).outcome is Outcome.FOUND
        assert site.files() == ["foo-1.0.tar.gz", "foo-1.1.tar.gz"]
        assert site.health.document()[site.index.name]["failing"] == {}


@pytest_twisted.ensureDeferred
async def test_page_over_the_bound(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of more bytes than the bound is broken off, one of just so many is taken."""
    async with mirror_of(server, tmp_path, server.url) as site:
        for size in (1_000_000, 1_000_001):
            monkeypatch.setattr(upstream_client, "MAX_PAGE_BYTES", 1_000_000)
            result = await site.ask(answer(page("1.0").ljust(size)))
            assert (result.outcome is Outcome.FOUND) == (size == 1_000_000), result
        assert "the page is too large" in str(result.error)


@pytest_twisted.ensureDeferred
async def test_page_without_length(server: Server, tmp_path: Path) -> None:
    """A page that ends with its connection is taken if it ends as pages do."""
    async with mirror_of(server, tmp_path, server.url) as site:
        assert (await site.ask(answer(page("1.0"), Content_Length=None))).outcome is Outcome.FOUND
        html = b'<html><a href="foo-1.1.zip">foo-1.1.zip</a></body></html>\n<!--SERIAL 1-->'
        site.known = None
        found = await site.ask(answer(html, kind="text/html", Content_Length=None))
        assert (found.outcome, site.files()) == (Outcome.FOUND, ["foo-1.1.zip"])


@pytest_twisted.ensureDeferred
async def test_serial_that_goes_back(server: Server, tmp_path: Path) -> None:
    """A page with an older serial of the upstream is yesterday's, whether the page or a header
    says it; an owner who knows better, or a day, makes it believed."""
    async with mirror_of(server, tmp_path, server.url) as site:
        await site.ask(answer(page("1.0", "1.1", serial=10)))
        newest = site.known
        old = answer(page("1.0", serial=9))
        for says in (old, answer(page("1.0"), X_PyPI_Last_Serial=9)):
            assert "went back to its serial 9" in str((await site.ask(says)).error)
            assert len(site.files()) == 2
        site.index = evolve(site.index, mirror_ignore_serial_header=True)
        assert (await site.ask(old)).outcome is Outcome.FOUND
        assert site.files() == ["foo-1.0.tar.gz"]
        site.index, site.known = evolve(site.index, mirror_ignore_serial_header=False), newest
        site.now[0] += 86_401
        older = await site.ask(answer(page("1.0", "1.2", serial=8)))
        assert (older.outcome, older.upstream_serial) == (Outcome.FOUND, 8)


@pytest_twisted.ensureDeferred
async def test_redirect_elsewhere(server: Server, tmp_path: Path) -> None:
    """A redirect is followed wherever it leads, also to this machine or a private network; but
    the password stays with its origin, and of what is no page nothing is told."""
    other = Server()
    port = tcp.listenTCP(0, other, interface="127.0.0.1")
    other.port = port.getHost().port
    async with mirror_of(server, tmp_path, server.url) as site:
        server.answers["/simple/moved/"] = GOOD
        assert (await site.ask(moved("/simple/moved/"))).outcome is Outcome.FOUND
        assert ["Basic" in one for one in server.requests] == [True, True]
        other.answers["/elsewhere/foo/"] = NEWER
        assert (
            await site.ask(moved(f"http://127.0.0.1:{other.port}/elsewhere/foo/"))
        ).error is None
        assert ["Basic" in one for one in other.requests] == [False]
        assert len(site.files()) == 2
        other.answers["/elsewhere/foo/"] = answer(b'{"key": "hidden"}', kind="application/json")
        said = await site.ask(moved(f"http://127.0.0.1:{other.port}/elsewhere/foo/"))
        assert said.outcome is Outcome.ERROR
        assert "hidden" not in str(said.error)
    await port.stopListening()


class ServerContext(ContextFactory):
    """What a TLS server listens with: a file with its key and certificate."""

    def __init__(self, path: str) -> None:
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._context.use_certificate_file(path)
        self._context.use_privatekey_file(path)

    def getContext(self) -> Any:
        """The context of all connections."""
        return self._context


@define
class Authority:
    """A certificate authority of the test."""

    folder: Path
    key: Any = field(factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def certificate(
        self, host: str | None, *, days: int, key: Any = None
    ) -> x509.Certificate:  # fmt: skip
        """Signed by this authority for a host (None: its own), until so many days from now."""
        now = datetime.now(UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host or "The tests' authority")])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "The tests' authority")])
        made = x509.CertificateBuilder(issuer, name, (key or self.key).public_key(),
                                       x509.random_serial_number(), now - timedelta(days=9),
                                       now + timedelta(days=days))  # fmt: skip
        made = made.add_extension(x509.BasicConstraints(host is None, None), critical=True)
        if host is not None:
            names = x509.SubjectAlternativeName([x509.DNSName(host)])
            made = made.add_extension(names, critical=False)
        return made.sign(self.key, SHA256())

    def server(self, host: str, days: int) -> Any:
        """What a TLS server listens with."""
        key = ec.generate_private_key(ec.SECP256R1())
        pem = self.certificate(host, days=days, key=key).public_bytes(Encoding.PEM)
        pem += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.folder.joinpath(f"{host}.pem").write_bytes(pem)
        return ServerContext(str(self.folder / f"{host}.pem"))


TLS = {
    "good": ("localhost", 9, None),
    "expired": ("localhost", -1, "has expired"),
    "wrong-name": ("elsewhere.example", 9, "is for another name"),
    "unknown-authority": ("localhost", 9, "authority that is not trusted"),
}


@pytest.mark.parametrize("case", TLS)
@pytest_twisted.ensureDeferred
async def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Only a certificate that is valid now, for that name and from an authority that is trusted
    lets a page in; with another the password is not even sent."""
    host, days, words = TLS[case]
    trusted, signing = Authority(tmp_path), Authority(tmp_path)
    if case != "unknown-authority":
        signing = trusted
    roots = tmp_path / "roots.pem"
    roots.write_bytes(trusted.certificate(None, days=9).public_bytes(Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    server = Server()
    port = tcp.listenSSL(0, server, signing.server(host, days), interface="127.0.0.1")
    url = f"https://localhost:{port.getHost().port}/simple/"
    async with mirror_of(server, tmp_path, url) as site:
        found = await site.ask(GOOD)
        if words is None:
            assert (found.outcome, len(server.requests)) == (Outcome.FOUND, 1)
        else:
            assert (found.outcome, server.requests) == (Outcome.ERROR, [])
            assert words in str(found.error), found.error
    await port.stopListening()
