"""API tokens: what may be asked for, how they are checked, made, listed and revoked."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from argon2 import extract_parameters
from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cluster.auth import limits as limits_module
from cluster.auth import tokenuse
from cluster.auth.acl import ANONYMOUS, Principal
from cluster.auth.limits import (
    MOST_AT_ONCE,
    MOST_PER_ADDRESS,
    MOST_PER_USER,
    UNKNOWN_USER,
    WINDOW_SECONDS,
    GuessLimits,
)
from cluster.auth.passwords import PasswordChecker, hash_password
from cluster.auth.tokens import (
    ApiToken,
    TokenLimits,
    from_request,
    from_rfc3339,
    mint,
    parse,
    rfc3339,
    verify,
)
from cluster.auth.tokenuse import TokenUses
from cluster.errors import (
    AuthenticationRequired,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    TooManyRequests,
)
from cluster.state.database import Database, open_engine
from cluster.threads import Inline
from primary.devpi import tokens as resource_module
from primary.devpi.tokens import TokenResource
from tests.fakes import NOW, as_clock, database, user_set, writer

LIMITS = TokenLimits(frozenset({"upload"}), ("ann/dev",), ("demo",))
DAY = 86_400


@define
class FakeIdentity:
    """Everybody is `who`."""

    who: Principal = ANONYMOUS

    async def user(self, request: object) -> Principal:
        return self.who

    def node(self, request: object) -> str | None:
        return None


@define
class FakeRequest:
    """The parts of a request that resources read."""

    content: BytesIO
    args: dict[bytes, list[bytes]]


def request(body: object = None, **args: str) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    return FakeRequest(BytesIO(data), {k.encode(): [v.encode()] for k, v in args.items()})


@define
class Site:
    """A token resource over a real writer and real databases, in memory."""

    resource: TokenResource
    identity: FakeIdentity
    uses: TokenUses
    now: list[float] = field(factory=lambda: [NOW])

    async def create(self, who: str, **body: object) -> dict[str, Any]:
        self.identity.who = Principal(who)
        reply = await self.resource.create(request({"actions": ["upload"], **body}))
        assert reply.status == 201
        document: dict[str, Any] = json.loads(reply.body)
        return cast(dict[str, Any], document["result"])

    async def listed(self, who: str, **args: str) -> list[dict[str, Any]]:
        self.identity.who = Principal(who)
        document = json.loads((await self.resource.list(request(**args))).body)
        return cast(list[dict[str, Any]], document["result"])

    async def revoke(self, who: str, token: str) -> None:
        self.identity.who = Principal(who)
        await self.resource.revoke(request(), token)


@contextmanager
def local_database() -> Iterator[Database]:
    engine = open_engine(Path(":memory:"), tokenuse.metadata, durable=False)
    try:
        yield Database(engine, Inline(), Inline())
    finally:
        engine.dispose()


@pytest.fixture
def site() -> Iterator[Site]:
    with database() as state, local_database() as local:
        identity, now = FakeIdentity(), [NOW]
        uses = TokenUses(local, lambda: now[0])
        write = writer(state)
        made = TokenResource(cast(Any, identity), state, write, uses, lambda: now[0])
        users = [user_set(name) for name in ("root", "ann", "bob")]
        Deferred.fromCoroutine(write.write("root", lambda c: users))
        yield Site(made, identity, uses, now)


def test_a_minted_token_verifies() -> None:
    """The text holds the id and the secret; only the secret's digest is recorded."""
    text, token = mint("ann", LIMITS, "ci", DAY, NOW)
    found = parse(text)
    assert found is not None
    name, secret = found
    assert name == token.id
    assert token.sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in json.dumps(token.to_payload())
    assert verify(token, secret, NOW)
    assert len(base64.urlsafe_b64decode(secret + "=")) == 32


def test_its_time_ends() -> None:
    """A token is good until its last second and not after."""
    text, token = mint("ann", LIMITS, "", DAY, NOW)
    secret = text[-43:]
    assert verify(token, secret, NOW + DAY - 1)
    assert not verify(token, secret, NOW + DAY)
    assert verify(evolve(token, expires=None), secret, NOW + 100 * DAY)


def test_wrong_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong secret and an unknown token are refused after the same comparison."""
    compared: list[Any] = []
    compare = hmac.compare_digest

    def counted(a: str, b: str) -> bool:
        compared.append(a)
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    text, token = mint("ann", LIMITS, "", DAY, NOW)
    other, _ = mint("ann", LIMITS, "", DAY, NOW)
    assert not verify(token, other[-43:], NOW)
    assert not verify(None, text[-43:], NOW)
    assert not verify(token, "\ud800", NOW)
    assert len(compared) == 3


@pytest.mark.parametrize(
    "text",
    ["", "pym_", "secret", "pym_0123456789abcdef_short", "pym_0123456789ABCDEF_" + "a" * 43,
     "pym_0123456789abcdef_" + "a" * 44, "pym_0123456789abcdef_" + "a" * 43 + "\n"],
)  # fmt: skip
def test_other_texts_are_no_tokens(text: str) -> None:
    """A password is not taken for a token."""
    assert parse(text) is None


def test_payload_round_trip() -> None:
    """What the log holds gives the same token, with the keys that issue 3 names."""
    _, token = mint("ann", LIMITS, "ci of demo", DAY, NOW)
    payload = token.to_payload()
    assert set(payload) == {
        "token", "user", "sha256", "actions", "indexes", "projects", "expires", "description",
        "created",
    }  # fmt: skip
    assert ApiToken.from_payload(json.loads(json.dumps(payload))) == token
    assert payload["expires"] == rfc3339(NOW + DAY)
    assert from_rfc3339(payload["created"]) == NOW


def test_limits() -> None:
    """Empty lists are no limit; each list that is given must hold what is asked for."""
    free = TokenLimits(frozenset({"read", "upload"}))
    assert free.allows("read", "ann/dev")
    assert free.allows("upload", "bob/x", "any")
    assert not free.allows("replicate", "ann/dev")
    assert LIMITS.allows("upload", "ann/dev", "demo")
    assert not LIMITS.allows("read", "ann/dev", "demo")
    assert not LIMITS.allows("upload", "ann/dev", "other")
    assert not LIMITS.allows("upload", "ann/dev")
    assert not LIMITS.allows("upload", "ann/other", "demo")


def test_request_defaults() -> None:
    """A token for oneself ends after a year, for all indexes and projects, unless said so."""
    wanted = from_request({"actions": ["read"]})
    assert wanted.limits == TokenLimits(frozenset({"read"}))
    assert (wanted.user, wanted.seconds, wanted.description) == (None, 365 * DAY, "")
    full = from_request(
        {"actions": ["read", "upload"], "indexes": ["ann/dev"], "projects": ["My_Demo", "my.demo"],
         "expires_days": 3650, "description": "for the CI", "user": "ann"}
    )  # fmt: skip
    assert full.limits.projects == ("my-demo",)
    assert (full.user, full.seconds) == ("ann", 3650 * DAY)


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"actions": []},
        {"actions": "read"},
        {"actions": ["write"]},
        {"actions": ["read", 1]},
        {"actions": ["read"], "indexes": ["dev"]},
        {"actions": ["read"], "indexes": ["a/b/c"]},
        {"actions": ["read"], "indexes": "ann/dev"},
        {"actions": ["read"], "indexes": ["ann/dev"] * 101},
        {"actions": ["read"], "projects": ["no name!"]},
        {"actions": ["read"], "expires_days": 0},
        {"actions": ["read"], "expires_days": 3651},
        {"actions": ["read"], "expires_days": 1.5},
        {"actions": ["read"], "expires_days": True},
        {"actions": ["read"], "expires_days": None},
        {"actions": ["read"], "description": "x" * 201},
        {"actions": ["read"], "description": "two\nlines"},
        {"actions": ["read"], "user": 1},
        {"actions": ["read"], "scope": "all"},
    ],
    ids=repr,
)
def test_bad_requests(body: object) -> None:
    """What a token cannot be is refused, and never rounded to something wider."""
    with pytest.raises(InvalidRequest):
        from_request(body)


@pytest_twisted.ensureDeferred
async def test_create_and_list(site: Site) -> None:
    """The text is shown once; the list has everything else, also when it was last used."""
    made = await site.create("ann", projects=["Demo"], description="ci")
    found = parse(made["token"])
    assert found is not None
    assert found[0] == made["id"]
    [shown] = await site.listed("ann")
    assert shown == {
        "id": made["id"], "user": "ann", "actions": ["upload"], "indexes": [],
        "projects": ["demo"], "expires": rfc3339(NOW + 365 * DAY), "description": "ci",
        "created": rfc3339(NOW), "expired": False, "last_used": None,
    }  # fmt: skip
    site.uses.used(made["id"])
    [shown] = await site.listed("ann")
    assert shown["last_used"] == rfc3339(NOW)


@pytest_twisted.ensureDeferred
async def test_whose_tokens(site: Site) -> None:
    """Users make and see their own tokens; root makes and sees everybody's."""
    await site.create("ann")
    await site.create("root", user="bob")
    with pytest.raises(Forbidden):
        await site.create("ann", user="bob")
    with pytest.raises(NotFound):
        await site.create("root", user="nobody")
    assert [one["user"] for one in await site.listed("ann")] == ["ann"]
    assert [one["user"] for one in await site.listed("bob", user="bob")] == ["bob"]
    assert [one["user"] for one in await site.listed("root")] == ["ann", "bob"]
    assert [one["user"] for one in await site.listed("root", user="ann")] == ["ann"]
    with pytest.raises(Forbidden):
        await site.listed("ann", user="bob")


@pytest_twisted.ensureDeferred
async def test_revoke(site: Site) -> None:
    """One's own token goes, another's is not even there; root revokes any."""
    first, second = await site.create("ann"), await site.create("ann")
    for who, token in (("bob", first["id"]), ("ann", "0" * 16), ("ann", "no such")):
        with pytest.raises(NotFound):
            await site.revoke(who, token)
    await site.revoke("ann", first["id"])
    assert [one["id"] for one in await site.listed("ann")] == [second["id"]]
    await site.revoke("root", second["id"])
    assert await site.listed("ann") == []


@pytest_twisted.ensureDeferred
async def test_only_people_manage_tokens(site: Site) -> None:
    """Nobody gets 401, an API token 403: also one that may do everything a token may."""
    everything = TokenLimits(frozenset({"read", "upload", "replicate"}))
    for who, error in (
        (ANONYMOUS, AuthenticationRequired),
        (Principal("root", everything), Forbidden),
    ):
        site.identity.who = who
        with pytest.raises(error):
            await site.resource.create(request({"actions": ["read"]}))
        with pytest.raises(error):
            await site.resource.list(request())
        with pytest.raises(error):
            await site.resource.revoke(request(), "0" * 16)


@pytest_twisted.ensureDeferred
async def test_bad_bodies(site: Site) -> None:
    """A body that is not a JSON object is a 400."""
    site.identity.who = Principal("ann")
    for body in (b"{", b"[]", b"null", b"\xff"):
        with pytest.raises(InvalidRequest):
            await site.resource.create(request(body))


@pytest_twisted.ensureDeferred
async def test_number_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user has so many tokens and no more; those whose time is over do not count, and go."""
    monkeypatch.setattr(resource_module, "MOST_TOKENS", 2)
    await site.create("ann", expires_days=1)
    old = await site.create("ann", expires_days=1)
    with pytest.raises(Conflict):
        await site.create("ann")
    await site.create("bob")
    site.now[0] += DAY
    assert [one["expired"] for one in await site.listed("ann")] == [True, True]
    await site.create("ann")
    assert old["id"] in [one["id"] for one in await site.listed("ann")]
    site.now[0] += DAY
    last = await site.create("ann")
    left = [one["id"] for one in await site.listed("ann")]
    assert old["id"] not in left
    assert len(left) == 2
    assert left[-1] == last["id"]


@pytest_twisted.ensureDeferred
async def test_uses_are_written_now_and_then() -> None:
    """A token used a thousand times a minute costs one write, and the list is up to date."""
    with local_database() as local:
        now = [NOW]
        uses = TokenUses(local, lambda: now[0])
        for _ in range(1000):
            now[0] += 0.05
            uses.used("a")
        uses.used("b")
        assert await uses.last() == {"a": now[0], "b": now[0]}
        written = await TokenUses(local, lambda: now[0]).last()
        assert written["a"] == pytest.approx(NOW + 0.05)
        now[0] += 60
        uses.used("a")
        assert (await TokenUses(local, lambda: now[0]).last())["a"] == now[0]
        await uses.forget("a")
        assert set(await uses.last()) == {"b"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail(limits: GuessLimits, user: str, address: str, times: int) -> None:
    for _ in range(times):
        limits.before(user, address)
        limits.failed(user, address)


def test_guessing_one_user(clock: Clock) -> None:
    """So many wrong passwords for a user from an address, then 429 with the time to wait;
    others, and the user elsewhere, are not harmed.
    """
    limits = GuessLimits(as_clock(clock))
    fail(limits, "ann", "192.0.2.1", MOST_PER_USER)
    with pytest.raises(TooManyRequests) as refused:
        limits.before("ann", "192.0.2.1")
    assert refused.value.status == 429
    assert refused.value.retry_after_seconds == WINDOW_SECONDS
    limits.before("bob", "192.0.2.1")
    limits.before("ann", "192.0.2.2")
    clock.advance(WINDOW_SECONDS)
    limits.before("ann", "192.0.2.1")


def test_the_window_slides(clock: Clock) -> None:
    """Each failure counts for its own five minutes."""
    limits = GuessLimits(as_clock(clock))
    fail(limits, "ann", "192.0.2.1", 1)
    clock.advance(100)
    fail(limits, "ann", "192.0.2.1", MOST_PER_USER - 1)
    with pytest.raises(TooManyRequests) as refused:
        limits.before("ann", "192.0.2.1")
    assert refused.value.retry_after_seconds == WINDOW_SECONDS - 100
    clock.advance(WINDOW_SECONDS - 100)
    fail(limits, "ann", "192.0.2.1", 1)
    with pytest.raises(TooManyRequests):
        limits.before("ann", "192.0.2.1")


def test_guessing_many_users(clock: Clock) -> None:
    """Going from user to user does not help, nor does a good login in between."""
    limits = GuessLimits(as_clock(clock))
    for number in range(MOST_PER_ADDRESS):
        fail(limits, f"user{number}", "192.0.2.1", 1)
        limits.succeeded("mallory", "192.0.2.1")
    with pytest.raises(TooManyRequests):
        limits.before("ann", "192.0.2.1")
    limits.before("ann", "192.0.2.2")


def test_a_success_forgets(clock: Clock) -> None:
    """Who mistypes now and then is never locked out."""
    limits = GuessLimits(as_clock(clock))
    for _ in range(4):
        fail(limits, "ann", "192.0.2.1", MOST_PER_USER - 1)
        limits.succeeded("ann", "192.0.2.1")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::1", True),
        ("forwarded", "forwarded", True),
        ("", "192.0.2.1", False),
    ],
)
def test_networks(clock: Clock, one: str, other: str, same: bool) -> None:
    """An IPv6 client cannot change its address within its /64 to go on guessing."""
    limits = GuessLimits(as_clock(clock))
    fail(limits, "ann", one, MOST_PER_USER)
    if same:
        with pytest.raises(TooManyRequests):
            limits.before("ann", other)
    else:
        limits.before("ann", other)


def test_checks_at_once(clock: Clock) -> None:
    """One address has so many checks under way and no more; each that ends makes room."""
    limits = GuessLimits(as_clock(clock))
    running = [limits.attempt("ann", "192.0.2.1") for _ in range(MOST_AT_ONCE)]
    for one in running:
        one.__enter__()
    with pytest.raises(TooManyRequests), limits.attempt("bob", "192.0.2.1"):
        pass
    with limits.attempt("ann", "192.0.2.2"):
        pass
    running.pop().__exit__(None, None, None)
    with pytest.raises(KeyError), limits.attempt("bob", "192.0.2.1"):
        raise KeyError
    with limits.attempt("bob", "192.0.2.1"):
        pass
    for one in running:
        one.__exit__(None, None, None)
    assert not limits._running


def test_memory_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bot with endless names and addresses takes bounded memory."""
    monkeypatch.setattr(limits_module, "_MOST_KEYS", 50)
    limits = GuessLimits(as_clock(clock))
    for number in range(500):
        fail(limits, f"user{number}" * 1000, f"192.0.{number % 250}.{number // 250}", 1)
    for window in (limits._users, limits._addresses):
        assert len(window._failures) == 50
    assert max(len(key[0]) for key in limits._users._failures) <= 100  # type: ignore[index]


@pytest_twisted.ensureDeferred
async def test_unknown_users_cost_the_same(clock: Clock) -> None:
    """The hash for users who are not there has the parameters of real ones and matches nothing."""
    assert extract_parameters(UNKNOWN_USER) == extract_parameters(hash_password("x"))
    checker = PasswordChecker(Inline(), as_clock(clock))
    assert not await checker.check(UNKNOWN_USER, "")
    assert not await checker.check(UNKNOWN_USER, "x")
