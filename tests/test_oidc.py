"""Trusted publishing: whose identity tokens are believed, and what is minted for them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
import pytest_twisted
from attrs import define, evolve, field
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from sqlalchemy import Connection
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers

from cluster.auth.oidc import IdentityRefused, TrustedPublishers, read_publishers
from cluster.auth.oidckeys import FRESH_SECONDS, RETRY_SECONDS, STALE_SECONDS, IssuerKeys, read_keys
from cluster.auth.tokens import ApiToken, TokenLimits, parse, verify
from cluster.errors import InvalidRequest, NotFound, UpstreamError
from cluster.state import queries
from cluster.state.database import Database
from primary.devpi.trusted import TrustedPublishing
from tests.fakes import NOW, as_clock, database, user_set, writer
from tests.oidc_issuer import Issuer

URL = "https://ci.example"
JOB = {"repository": "acme/demo", "ref": "refs/tags/v1", "protected": True, "run": 7}
LIST = f"""
[[publisher]]
name = "demo"
issuer = "{URL}"
user = "ann"
indexes = ["ann/dev"]
projects = ["Demo"]
[publisher.claims]
repository = "acme/demo"
ref = "refs/tags/*"
"""


@define
class FakeResponse:
    """A whole answer."""

    code: int
    body: bytes
    headers: Headers = field(factory=Headers)
    length: int = 0

    def deliverBody(self, protocol: Any) -> None:
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(self.body)
        protocol.connectionLost(Failure(ResponseDone()))


@define
class FakeAgent:
    """Answers by URL; an exception as an answer is raised, None hangs."""

    answers: dict[str, Any] = field(factory=dict)
    asked: list[str] = field(factory=list)

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, body: Any = None, /
    ) -> Deferred[Any]:
        url = uri.decode()
        self.asked.append(url)
        answer = self.answers.get(url, 404)
        if answer is None:
            return Deferred()
        if isinstance(answer, Exception):
            return fail(answer)
        if isinstance(answer, int):
            return succeed(FakeResponse(answer, b"{}"))
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        return succeed(FakeResponse(200, data))

    def publish(self, issuer: Issuer) -> None:
        self.answers[f"{issuer.url}/.well-known/openid-configuration"] = issuer.configuration()
        self.answers[f"{issuer.url}/jwks"] = issuer.jwks()


@cache
def honest() -> Issuer:
    """Making keys takes long; no test changes this one."""
    return Issuer(URL, JOB)


@define
class Site:
    """Publishers over a fake network, and a resource over a real writer."""

    agent: FakeAgent
    clock: Clock
    database: Database
    publishers: TrustedPublishers
    resource: TrustedPublishing
    now: list[float]

    async def refused(self, token: str) -> str:
        """Why a token is no good."""
        with pytest.raises(IdentityRefused) as error:
            await self.publishers.identify(token)
        return error.value.code

    async def mint(self, body: object) -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = await self.resource.mint(request(data))
        return reply.status, json.loads(reply.body)


@define
class FakeRequest:
    """The parts of a request that the resource reads."""

    content: Any
    args: Mapping[bytes, list[bytes]]
    headers: Mapping[str, str]

    def header(self, name: str) -> str | None:
        return self.headers.get(name)

    def isSecure(self) -> bool:
        return False


@define
class Content:
    """A body."""

    data: bytes

    def read(self) -> bytes:
        return self.data


def request(body: bytes = b"", discover: str = "", **headers: str) -> Any:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return FakeRequest(Content(body), {b"discover": [discover.encode()]}, names)


@pytest.fixture
def site() -> Iterator[Site]:
    with database() as state:
        agent, clock, now = FakeAgent(), Clock(), [NOW]
        agent.publish(honest())
        clock.advance(10_000)
        keys = IssuerKeys(agent, as_clock(clock))
        publishers = TrustedPublishers(read_publishers(LIST), keys, lambda: now[0])
        write = writer(state)
        Deferred.fromCoroutine(write.write("root", lambda c: [user_set("ann")]))
        resource = TrustedPublishing(publishers, write, lambda: now[0])
        yield Site(agent, clock, state, publishers, resource, now)


@pytest.mark.parametrize("kid", ["rsa-1", "ec-1"])
@pytest_twisted.ensureDeferred
async def test_an_honest_job(site: Site, kid: str) -> None:
    """A job whose claims match is its publisher's, by RS256 and by ES256."""
    token = honest().sign(honest().job(NOW), kid)
    publisher, claims = await site.publishers.identify(token)
    assert publisher.name == "demo"
    assert claims["repository"] == "acme/demo"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"aud": "other"}, "invalid-token"),
        ({"aud": ["other", "another"]}, "invalid-token"),
        ({"aud": None}, "invalid-token"),
        ({"iss": "https://evil.example"}, "unknown-issuer"),
        ({"iss": f"{URL}/"}, "unknown-issuer"),
        ({"iss": None}, "invalid-token"),
        ({"sub": None}, "invalid-token"),
        ({"iat": None}, "invalid-token"),
        ({"exp": None}, "invalid-token"),
        ({"exp": "soon"}, "invalid-token"),
        ({"exp": int(NOW) - 60}, "expired-token"),
        ({"nbf": int(NOW) + 61}, "invalid-token"),
        ({"iat": int(NOW) + 61}, "invalid-token"),
        ({"repository": "acme/other"}, "invalid-publisher"),
        ({"repository": "acme/demo2"}, "invalid-publisher"),
        ({"repository": ["acme/demo"]}, "invalid-publisher"),
        ({"repository": None}, "invalid-publisher"),
        ({"ref": "refs/tags/"}, "invalid-publisher"),
        ({"ref": "refs/tags/a/b"}, "invalid-publisher"),
        ({"ref": "refs/heads/main"}, "invalid-publisher"),
    ],
    ids=repr,
)
@pytest_twisted.ensureDeferred
async def test_refused_claims(site: Site, changed: dict[str, Any], code: str) -> None:
    """A well signed token for somebody else, of another time, or of another job is refused."""
    assert await site.refused(honest().sign(honest().job(NOW, **changed))) == code


@pytest_twisted.ensureDeferred
async def test_forgeries(site: Site) -> None:
    """No algorithm, the public key as a secret, another's key, a changed body: refused."""
    issuer, claims = honest(), honest().job(NOW)
    forger = Issuer(URL, JOB)
    good = issuer.sign(claims)
    head, _, signature = good.split(".")
    other_body = issuer.sign({**claims, "repository": "x"}).split(".")[1]
    for token in (
        issuer.unsigned(claims),
        issuer.confused(claims),
        forger.sign(claims),
        forger.sign(claims, "ec-1"),
        issuer.sign(claims, "ec-1", kid="rsa-1"),
        issuer.sign(claims, "rsa-1", kid="ec-1"),
        issuer.sign(claims, kid="shared"),
        f"{head}.{other_body}.{signature}",
        f"{head}.{good.split('.')[1]}.",
        good[:-5],
        "",
        "a.b.c",
        "x" * 20_000,
    ):
        assert await site.refused(token) == "invalid-token", token
    assert await site.publishers.identify(good)


@pytest_twisted.ensureDeferred
async def test_only_listed_issuers_are_asked(site: Site) -> None:
    """A token that names an issuer of its own does not make the node fetch anything."""
    evil = Issuer("https://evil.example", JOB)
    site.agent.publish(evil)
    assert await site.refused(evil.sign(evil.job(NOW))) == "unknown-issuer"
    assert site.agent.asked == []


@pytest_twisted.ensureDeferred
async def test_a_token_counts_once(site: Site) -> None:
    """A second use of an identity token is refused: who read it in a log gets nothing."""
    token = honest().sign(honest().job(NOW))
    await site.publishers.identify(token)
    assert await site.refused(token) == "reused-token"
    await site.publishers.identify(honest().sign(honest().job(NOW)))


@pytest_twisted.ensureDeferred
async def test_unknown_keys(site: Site) -> None:
    """An unknown key makes the node look again, but not for every forged token."""
    issuer = Issuer(URL, JOB)
    site.agent.publish(issuer)
    await site.publishers.identify(issuer.sign(issuer.job(NOW)))
    asked = len(site.agent.asked)
    issuer.keys["new"] = rsa.generate_private_key(65537, 2048)
    token = issuer.sign(issuer.job(NOW), "new")
    site.agent.publish(issuer)
    for _ in range(10):
        assert await site.refused(token) == "invalid-token"
    assert len(site.agent.asked) == asked
    site.clock.advance(RETRY_SECONDS)
    await site.publishers.identify(token)
    assert len(site.agent.asked) == asked + 2


@pytest_twisted.ensureDeferred
async def test_keys_are_remembered(site: Site) -> None:
    """Keys are fetched once an hour, and outlive an issuer's outage of less than a day."""
    find = site.publishers._keys.find
    assert await find(URL, "rsa-1", "RS256") is not None
    assert await find(URL, "rsa-1", "ES256") is None
    assert len(site.agent.asked) == 2
    site.agent.answers.clear()
    site.clock.advance(FRESH_SECONDS)
    assert await find(URL, "rsa-1", "RS256") is not None
    assert len(site.agent.asked) == 3
    site.clock.advance(STALE_SECONDS)
    with pytest.raises(UpstreamError):
        await find(URL, "rsa-1", "RS256")


@pytest.mark.parametrize(
    "answers",
    [
        {"/.well-known/openid-configuration": 500},
        {"/.well-known/openid-configuration": ConnectionError("no route")},
        {"/.well-known/openid-configuration": b"<html>"},
        {"/.well-known/openid-configuration": []},
        {"/.well-known/openid-configuration": {"issuer": URL}},
        {"/.well-known/openid-configuration": {"issuer": "https://x.example", "jwks_uri": URL}},
        {"/.well-known/openid-configuration": {"issuer": URL, "jwks_uri": "http://ci.example/k"}},
        {"/.well-known/openid-configuration": {"issuer": URL, "jwks_uri": "file:///etc/passwd"}},
        {"/jwks": 404},
        {"/jwks": {"keys": "none"}},
        {"/jwks": b"[" * 300_000},
        {"/jwks": b'{"keys": []}' + b" " * 300_000},
    ],
    ids=lambda answers: str(answers)[:70],
)
@pytest_twisted.ensureDeferred
async def test_bad_issuers(site: Site, answers: dict[str, Any]) -> None:
    """An issuer that is away, lies about itself or sends too much is an upstream error."""
    site.agent.answers.update({URL + path: answer for path, answer in answers.items()})
    token = honest().sign(honest().job(NOW))
    with pytest.raises(UpstreamError):
        await site.publishers.identify(token)
    status, document = await site.mint({"token": token})
    assert status == 502
    assert document["errors"][0]["code"] == "unavailable"


@pytest_twisted.ensureDeferred
async def test_a_hanging_issuer(site: Site) -> None:
    """An issuer that never answers is given up after ten seconds, for all who wait."""
    site.agent.answers[f"{URL}/jwks"] = None
    keys = site.publishers._keys
    waiting = [Deferred.fromCoroutine(keys.find(URL, "rsa-1", "RS256")) for _ in range(3)]
    assert len(site.agent.asked) == 2
    site.clock.advance(10)
    for one in waiting:
        with pytest.raises(UpstreamError):
            await one


def test_usable_keys() -> None:
    """Of a key set only strong public keys with ids are taken, each for its own algorithm."""
    issuer = honest()
    assert set(read_keys(issuer.jwks())) == {("rsa-1", "RS256"), ("ec-1", "ES256")}
    weak = Issuer(URL)
    weak.keys = {
        "short": rsa.generate_private_key(65537, 1024),  # noqa: S505
        "p384": ec.generate_private_key(ec.SECP384R1()),
    }
    assert not read_keys(weak.jwks())
    [_, good, _] = issuer.jwks()["keys"]
    for bad in (
        {**good, "use": "enc"}, {**good, "kid": 1}, {**good, "alg": "RS512"}, {**good, "n": "!"},
        {"kty": "RSA", "kid": "a"}, "text", None,
    ):  # fmt: skip
        assert not read_keys({"keys": [bad]}), bad


@pytest_twisted.ensureDeferred
async def test_mint(site: Site) -> None:
    """A job gets an upload token for 15 minutes, for its publisher's indexes and projects."""
    status, document = await site.mint({"token": honest().sign(honest().job(NOW))})
    assert status == 200
    assert document["success"] is True
    assert document["expires"] == NOW + 900
    found = parse(document["token"])
    assert found is not None

    def recorded(connection: Connection) -> ApiToken:
        payload = queries.token(connection, found[0])
        assert payload is not None
        return ApiToken.from_payload(payload)

    token = await site.database.read(recorded)
    assert verify(token, found[1], NOW + 899)
    assert not verify(token, found[1], NOW + 900)
    assert token.user == "ann"
    assert token.limits == TokenLimits(frozenset({"upload"}), ("ann/dev",), ("demo",))
    assert token.description == "trusted publisher demo: job"


@pytest_twisted.ensureDeferred
async def test_mint_refusals(site: Site) -> None:
    """Refusals have the form that twine, uv and the draft read, and say nothing secret."""
    token = honest().sign(honest().job(NOW, repository="acme/other"))
    for body, code in (
        ({"token": token}, "invalid-publisher"),
        ({"token": 1}, "invalid-payload"),
        ({}, "invalid-payload"),
        ([], "invalid-payload"),
        (b"{", "invalid-payload"),
    ):
        status, document = await site.mint(body)
        assert status == 422
        assert isinstance(document["message"], str)
        [error] = document["errors"]
        assert error["code"] == code
        assert error["description"]
        assert token not in json.dumps(document)


@pytest_twisted.ensureDeferred
async def test_a_publisher_without_a_user(site: Site) -> None:
    """A publisher for a user who is not there mints nothing."""
    listed = read_publishers(LIST.replace('"ann"', '"nobody"'))
    site.publishers.listed = listed
    status, document = await site.mint({"token": honest().sign(honest().job(NOW))})
    assert status == 422
    assert "nobody" in document["errors"][0]["description"]


def test_discovery(site: Site) -> None:
    """The draft's discovery names the endpoints on the host that the client asked, for an upload
    path that somebody may publish to; the audience is told to everybody.
    """
    found = site.resource.discover(request(discover="/ann/dev/", Host="node.example:3141"))
    assert json.loads(found.body) == {
        "audience-endpoint": "http://node.example:3141/_/oidc/audience",
        "token-mint-endpoint": "http://node.example:3141/_/oidc/mint-token",
    }
    front = request(discover="/base/ann/dev/", X_Outside_Url="https://a.example/base")
    endpoints = json.loads(site.resource.discover(front).body)
    assert endpoints["audience-endpoint"] == "https://a.example/base/_/oidc/audience"
    for path in ("", "/", "/ann/other/", "/ann"):
        with pytest.raises(NotFound):
            site.resource.discover(request(discover=path, Host="node.example"))
    assert json.loads(site.resource.audience().body) == {"audience": "pymirror"}


@pytest_twisted.ensureDeferred
async def test_switched_off(site: Site) -> None:
    """Without the option all of it is 404."""
    off = TrustedPublishing(None, site.resource._writer, lambda: NOW)
    with pytest.raises(NotFound):
        off.audience()
    with pytest.raises(NotFound):
        off.discover(request(discover="/ann/dev/", Host="node.example"))
    with pytest.raises(NotFound):
        await off.mint(request(b"{}"))


def test_list_defaults() -> None:
    """A publisher without further words has the default audience and 15 minutes."""
    listed = read_publishers(LIST)
    [publisher] = listed.publishers
    assert listed.audience == publisher.audience == "pymirror"
    assert publisher.seconds == 900
    named = read_publishers(f'audience = "our index"\n{LIST}')
    assert named.publishers[0].audience == "our index"
    own = read_publishers(LIST.replace("[publisher.claims]", 'audience="x"\n[publisher.claims]'))
    assert (own.audience, own.publishers[0].audience) == ("pymirror", "x")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[[publisher]]", "[[publisher"),
        ("[[publisher]]", "[publisher]"),
        ("[[publisher]]", "[[publishers]]"),
        (URL, "http://ci.example"),
        (URL, "ci.example"),
        ('name = "demo"', ""),
        ('user = "ann"', "user = 1"),
        ('indexes = ["ann/dev"]', ""),
        ('indexes = ["ann/dev"]', "indexes = []"),
        ('"ann/dev"', '"dev"'),
        ('"Demo"', '"no name!"'),
        ('user = "ann"', 'user = "ann"\ntoken_minutes = 14'),
        ('user = "ann"', 'user = "ann"\ntoken_minutes = 361'),
        ('user = "ann"', 'user = "ann"\nactions = ["read"]'),
        ('ref = "refs/tags/*"', "ref = 1"),
        ('[publisher.claims]\nrepository = "acme/demo"\nref = "refs/tags/*"', ""),
        ('repository = "acme/demo"\nref = "refs/tags/*"', ""),
        (LIST, LIST + LIST),
    ],
)  # fmt: skip
def test_bad_lists(old: str, new: str) -> None:
    """A list that is not understood stops the start; nothing in it is guessed or left out."""
    assert old in LIST
    with pytest.raises(InvalidRequest):
        read_publishers(LIST.replace(old, new))


def test_claims_of_other_types() -> None:
    """Numbers and truth values are compared by their JSON text."""
    [publisher] = read_publishers(LIST).publishers
    asked = evolve(publisher, claims={"protected": "true", "run": "7"})
    assert asked.accepts({"aud": "pymirror", **JOB})
    assert not asked.accepts({"aud": "pymirror", **JOB, "protected": False})
    assert not asked.accepts({"aud": "pymirror", **JOB, "run": 8})
