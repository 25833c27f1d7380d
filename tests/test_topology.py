"""Replicas behind replicas: their statements pass through others unchanged, and count."""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, cast

import orjson
import pytest
import pytest_twisted
from attrs import define, evolve, field
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cluster.auth.nodekeys import Admission, NodeKey
from cluster.auth.nodes import NodeSecret
from cluster.errors import AuthenticationRequired, InvalidRequest, LoopDetected
from cluster.log import changelog
from cluster.log.checkpoint import LogSigner
from cluster.log.merkle import Frontier, leaf_hash
from cluster.protocol import LONGEST_CHAIN, REPORTS_PATH
from cluster.state.nodes import KnownNode
from cluster.state.position import Head, Position
from cluster.statements import MOST_AT_ONCE, Statement, decode, encode, make
from cluster.web.polls import Polls
from cluster.web.status import LogIdentity
from cluster.web.tail import OtherHistory
from primary.acks import Acks
from primary.feed import Feed
from primary.followers import Followers
from primary.relayed import Relayed
from primary.streams import Streams
from replica.following import Following, State, Unreachable
from replica.owner import LOOK_SECONDS, OwnerSearch
from replica.primary_client import PrimaryClient
from replica.reporting import REPORT_SECONDS, Own, Reporter
from replica.siblings import Siblings
from tests.fakes import NOW, START, as_clock, database, entries, user_set

SECRET = b"the secret of the tests' cluster"
NAMES = ("one", "two", "three")
KEYS = {
    name: NodeKey(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32))
    for n, name in enumerate(NAMES, start=1)
}
LOG = entries([START, *(user_set(f"user{n}") for n in range(9))])


def at(size: int) -> Frontier:
    """The log's first entries."""
    return Frontier().extended(leaf_hash(entry.raw) for entry in LOG[:size])


def admission(now: Callable[[], float] = lambda: NOW, *, require_keys: bool = True) -> Admission:
    """Knows the keys of all three nodes."""
    with database() as own:
        made = Admission(own, lambda: SECRET, now, require_keys)
    made.take(
        {name: KnownNode(name, key.public, None, "i", False, 2) for name, key in KEYS.items()}
    )
    return made


def said(
    node: str, size: int, files: int = 0, when: float = NOW, key: str | None = None, **more: Any
) -> Statement:
    """A statement of a node, signed by its key or that of another."""
    report = {"state": "in-sync", "ready": True, "files_position": files, **more}
    signer = KEYS[key or node]
    return make(
        node, when, size, at(size).root, report, lambda m, p: signer.token(node, m, p, when)
    )


@define
class Asked:
    """A request, as far as it is looked into."""

    sender: str
    content: BytesIO

    def header(self, name: str) -> str | None:
        return None


@define
class Senders:
    """Believes who a request says that it is from; verifies signatures by keys."""

    admission: Admission = field(factory=admission)

    def require_node(self, request: Asked) -> str:
        return request.sender

    def require_admitted(self, node: str) -> None:
        """Nobody is revoked."""

    def signer(self, token: str, method: str, path: str) -> str:
        return self.admission.verify(token, method, path)


class Open:
    """A primary that nobody has replaced."""

    def require_owner(self) -> None:
        return


@define
class Map:
    """The primary's side; its log has ten entries."""

    clock: Clock = field(factory=Clock)
    senders: Senders = field(factory=Senders)
    now: float = NOW
    followers: Followers = field(init=False)
    acks: Acks = field(init=False)
    relayed: Relayed = field(init=False)
    polls: Polls = field(init=False)
    feed: Feed = field(init=False)

    def __attrs_post_init__(self) -> None:
        clock = as_clock(self.clock)
        position = Position(clock, Head(10, 1, at(10).root, None))
        self.followers = Followers(position, lambda: self.now)
        self.acks, self.polls = Acks(clock, cast(Any, None)), Polls(position)
        self.relayed = Relayed(
            cast(Any, self.senders), cast(Any, Logged()), position, self.followers, self.acks,
            cast(Any, Open()), self.polls,
        )  # fmt: skip
        self.feed = Feed(
            cast(Any, Logged()), position, LogSigner("log", Ed25519PrivateKey.generate()),
            cast(Any, self.senders), self.followers, LogIdentity("log", "key"), lambda: SECRET,
            cast(Any, Open()), self.acks, self.polls,
            Streams(clock, position, self.polls, cast(Any, self.senders)),
        )  # fmt: skip

    async def take(self, sender: str, *statements: Statement, lost: tuple[str, ...] = ()) -> int:
        """What is answered."""
        body = BytesIO(encode(statements, lost))
        return (await self.relayed.take(cast(Any, Asked(sender, body)))).status

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["uuid"]: row for row in self.followers.document()}


class Logged:
    """Answers questions from a database with the log."""

    async def read(self, question: Callable[[Any], Any]) -> Any:
        with database() as own, own.engine.begin() as connection:
            changelog.append(connection, Frontier(), LOG)
            return question(connection)


def test_a_statement_is_the_nodes_own() -> None:
    """It reads as it was written; who changes a letter, or signs for another, is found out, and
    so is who passes on what did not come through it."""
    verify = admission().verify
    good = said("two", 7, 5).passed("one")
    (read,), lost = decode(encode([good], ["three"]))
    assert (read, lost) == (good, ["three"])
    read.require("one", verify)
    said("two", 7).require("two", verify)
    changed = evolve(good, text=good.text.replace('"position":7', '"position":9'))
    for bad in (changed, said("two", 7, key="one").passed("one")):
        with pytest.raises(AuthenticationRequired, match="signed"):
            bad.require("one", verify)
    with pytest.raises(AuthenticationRequired, match="through"):
        good.require("three", verify)
    other = evolve(said("two", 7), text=said("one", 7).text, proof=said("one", 7).proof)
    with pytest.raises(AuthenticationRequired, match="of itself"):
        other.require("two", verify)


def test_a_statement_is_no_request() -> None:
    """A node's token for a request does not serve as the proof of a statement."""
    good = said("two", 7)
    for method in ("POST", "GET"):
        token = KEYS["two"].token("two", method, REPORTS_PATH, NOW)
        with pytest.raises(AuthenticationRequired):
            evolve(good, proof=token).require("two", admission().verify)


def test_rings_end() -> None:
    """A statement passes no node twice, and not more nodes than a chain may have."""
    one = said("two", 7).passed("one")
    for again in ("one", "two"):
        with pytest.raises(LoopDetected):
            one.passed(again)
    for number in range(LONGEST_CHAIN - 1):
        one = one.passed(f"node {number}")
    with pytest.raises(LoopDetected):
        one.passed("one more")


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(
        ["reports", "lost", "text", "proof", "via", "node", "at", "position", "root", "report"]
    ), inner),
))  # fmt: skip
def test_any_body(value: Any) -> None:
    """Whatever comes, it is statements or refused."""
    try:
        body = orjson.dumps(value)
    except TypeError:
        body = b"{"
    try:
        decode(body)
    except InvalidRequest:
        return
    assert isinstance(value, dict)


@pytest_twisted.ensureDeferred
async def test_it_counts() -> None:
    """What came through another is on the map with `via`, and acknowledges entries and files."""
    it = Map()
    done = Deferred.fromCoroutine(it.acks.reached(10, 2, with_files=True))
    it.acks.cosigned("one", 10, 10)
    far = said("three", 10, 9, region="eu").passed("two").passed("one")
    assert await it.take("one", said("two", 10, 10).passed("one"), far) == 204
    assert done.called
    assert it.acks.holders(10, with_files=False) == 3
    assert it.acks.holders(10, with_files=True) == 2
    row = it.rows()["three"]
    assert (row["via"], row["region"], row["address"]) == (["two", "one"], "eu", None)
    assert (row["position"], row["lag_entries"], row["healthy"]) == (10, 0, True)


@pytest_twisted.ensureDeferred
async def test_an_orphaned_end_is_no_acknowledgement() -> None:
    """Who holds other entries at these serials than the primary counts for none of them, nor for
    what it acknowledged before; nor does who is ahead of it."""
    it = Map()

    async def cosigned(node: str, size: int, root: bytes) -> int:
        said = {"position": size, "files_position": size, "root": b64encode(root).decode()}
        request = cast(Any, Asked(node, BytesIO(orjson.dumps(said))))
        return (await it.feed.cosign(request)).status

    assert await cosigned("one", 10, at(10).root) == 204
    assert await cosigned("two", 4, at(4).root) == 204
    assert await cosigned("one", 4, at(4).root) == 204  # overtaken by the one before
    assert it.acks.holders(4, with_files=True) == 2
    assert it.acks.holders(10, with_files=True) == 1
    for size, root in ((10, at(9).root), (4, at(5).root), (11, at(10).root)):
        with pytest.raises(OtherHistory):
            await cosigned("two", size, root)
    assert it.acks.holders(4, with_files=True) == 1
    for wrong in (b"", b"[]", b"{}", b'{"position": 1, "files_position": 0, "root": "!"}'):
        with pytest.raises(InvalidRequest):
            await it.feed.cosign(cast(Any, Asked("one", BytesIO(wrong))))


@pytest_twisted.ensureDeferred
async def test_what_does_not_count() -> None:
    """Invented, foreign and repeated statements change nothing; another history is `diverged`."""
    it = Map()
    await it.take("one", said("two", 10, 10, key="one").passed("one"))
    await it.take("three", said("two", 10, 10).passed("one"))
    await it.take("two", said("two", 10, 10))  # who polls here says it so
    assert it.rows() == {}
    other = make("two", NOW, 4, bytes(32), {}, lambda m, p: KEYS["two"].token("two", m, p, NOW))
    await it.take("one", other.passed("one"))
    assert it.rows()["two"]["state"] == "diverged"
    assert it.acks.holders(1, with_files=False) == 0
    await it.take("one", said("two", 8, when=NOW + 2).passed("one"))
    await it.take("one", said("two", 6, when=NOW + 1).passed("one"))
    assert (it.rows()["two"]["position"], it.rows()["two"]["state"]) == (8, "in-sync")
    assert it.acks.holders(8, with_files=False) == 1
    ahead = make("two", NOW + 3, 99, at(9).root, {},
                 lambda m, p: KEYS["two"].token("two", m, p, NOW))  # fmt: skip
    await it.take("one", ahead.passed("one"))
    assert it.rows()["two"]["state"] == "diverged"


@pytest_twisted.ensureDeferred
async def test_lost() -> None:
    """A replica is lost when whom it follows says so, or is cut off itself; not by others' word."""
    it = Map()
    it.followers.heard("one", 10, '{"state": "in-sync"}', "192.0.2.1", "")
    await it.take("one", said("two", 10).passed("one"))
    await it.take("three", lost=("two", "one"))
    it.now += 10
    assert it.rows()["two"]["healthy"]
    it.followers.lost("one")
    it.now += 10
    assert (it.rows()["two"]["lost_seconds"], it.rows()["two"]["healthy"]) == (10, False)
    it.followers.heard("one", 10, '{"state": "in-sync"}', "192.0.2.1", "")
    assert it.rows()["two"]["healthy"]
    await it.take("one", lost=("two",))
    it.now += 4
    assert not it.rows()["two"]["healthy"]


@pytest_twisted.ensureDeferred
async def test_a_node_that_polls_speaks_for_itself() -> None:
    """Once a replica has moved to the primary, what comes through the old way is too late."""
    it = Map()
    poll = Deferred.fromCoroutine(it.polls.wait("two", 11, 25.0))
    it.followers.heard("two", 10, "{}", "192.0.2.2", "")
    await it.take("one", said("two", 8).passed("one"))
    assert (it.rows()["two"]["position"], it.rows()["two"]["via"]) == (10, [])
    it.polls.end(lambda node: True)
    await poll


@define(eq=False)
class Line:
    """What a replica's client has to be for a reporter: it leads to another's, or to the map."""

    sender: str
    clock: Clock
    to: Callable[[Asked], Any]
    chain: tuple[str, ...] = ()
    is_down: bool = False
    bodies: list[bytes] = field(factory=list)

    def headers(self, method: str, path: str) -> dict[str, str]:
        return {}

    async def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Any:
        if self.is_down:
            raise Unreachable("nobody there")
        assert (method, path) == ("POST", REPORTS_PATH)
        self.bodies.append(body)
        reply = self.to(Asked(self.sender, BytesIO(body)))
        return await reply if hasattr(reply, "__await__") else reply


@define(eq=False)
class Node:
    """A replica, as far as it reports."""

    name: str
    line: Line
    files: int = 0
    following: Following = field(factory=lambda: Following(State.IN_SYNC, caught_up_once=True))
    reporter: Reporter = field(init=False)

    def __attrs_post_init__(self) -> None:
        secret = NodeSecret(SECRET, lambda: NOW, key=KEYS[self.name])
        own = Own(
            self.name, lambda: self.files, lambda: self.following,
            lambda f: {"state": f.state.value, "ready": True, "files_position": self.files},
            lambda: NOW + self.line.clock.seconds(), lambda m, p: secret.token(self.name, m, p),
        )  # fmt: skip
        self.reporter = Reporter(cast(Any, self.line), as_clock(self.line.clock), own)

    def take(self, request: Asked) -> Any:
        return self.reporter.take(cast(Any, request), request.sender, admission().verify)


def chain() -> tuple[Map, list[Node]]:
    """primary ← one ← two ← three; the last two know that they are behind a replica."""
    it = Map()
    one = Node("one", Line("one", it.clock, lambda r: it.relayed.take(cast(Any, r))))
    two = Node("two", Line("two", it.clock, one.take, ("one",)))
    three = Node("three", Line("three", it.clock, two.take, ("two", "one")))
    return it, [one, two, three]


def test_each_level_adds_one_request() -> None:
    """What the end of a chain has is on the primary without any time passing, entries and files,
    in one request of each node on the way; who follows the primary itself makes no statement."""
    it, nodes = chain()
    for node in nodes:
        node.reporter.polls(at(9))
    it.clock.advance(0)
    assert sorted(it.rows()) == ["three", "two"]
    before = [len(node.line.bodies) for node in nodes]
    nodes[2].reporter.polls(at(10))
    it.clock.pump([0] * 5)
    assert it.rows()["three"]["position"] == 10
    assert [len(node.line.bodies) for node in nodes] == [n + 1 for n in before]
    assert it.acks.holders(10, with_files=True) == 0
    nodes[2].files = 10
    nodes[2].reporter.tell()
    it.clock.pump([0] * 5)
    assert it.acks.holders(10, with_files=True) == 1
    assert it.rows()["three"]["via"] == ["two", "one"]


def test_nothing_new_is_said_seldom() -> None:
    """Without news a statement comes every 20 s, so that the primary knows who is there."""
    it, nodes = chain()
    three = nodes[2]
    three.reporter.start()
    three.reporter.polls(at(10))
    it.clock.advance(0)
    for _ in range(3):
        three.reporter.tell()
        it.clock.advance(0)
    assert len(three.line.bodies) == 1
    it.clock.pump([1.0] * int(REPORT_SECONDS + 6))
    assert len(three.line.bodies) == 2
    three.reporter.stop()
    it.clock.pump([1.0] * 60)
    assert len(three.line.bodies) == 2


def test_a_cut_is_made_up_for() -> None:
    """What could not be passed on goes on when it can, in its newest form, and all of it: so many
    in one request."""
    it, (one, two, three) = chain()
    one.line.is_down = True
    for size in (8, 9):
        three.reporter.polls(at(size))
        it.clock.pump([0] * 3)
    two.reporter.polls(at(9))
    it.clock.pump([0] * 3)
    assert it.rows() == {}
    one.line.is_down = False
    it.clock.pump([0.5] * 4)
    assert [row["position"] for row in it.rows().values()] == [9, 9]
    assert len(one.line.bodies) == 1


def test_many_go_in_bounded_batches() -> None:
    """A request holds at most so many statements, whose longest form a node still reads."""
    it, (one, *_) = chain()
    text = "\u2603" * 200
    many = [said("two", 9, error=text, networks=["2001:db8::/48"] * 100) for _ in range(120)]
    statements = [evolve(s, node=f"node {n}").passed("one") for n, s in enumerate(many)]
    for each in statements:
        one.reporter._keep(each, each.node)
    one.reporter.tell()
    it.clock.pump([0] * 5)
    assert [len(orjson.loads(body)["reports"]) for body in one.line.bodies] == [50, 50, 20]
    assert max(map(len, one.line.bodies)) < 1 << 20
    assert MOST_AT_ONCE == 50


def test_a_ring_is_quiet() -> None:
    """Two replicas that follow each other do not pass words round for ever."""
    it, (one, two, _) = chain()
    one.line.to, one.line.chain, two.line.chain = two.take, ("two",), ("one",)
    one.reporter.polls(at(9))
    two.reporter.polls(at(9))
    two.reporter.lost("three")
    it.clock.pump([0] * 50)
    assert len(one.line.bodies) + len(two.line.bodies) < 6
    one.following = two.following = Following(State.LOOP)
    one.reporter.polls(at(10))
    it.clock.pump([0] * 5)
    assert len(one.line.bodies) + len(two.line.bodies) < 6


def test_a_relay_forgets_strangers_words() -> None:
    """A relay passes on neither what a node has not signed, nor who is said to be lost by others
    than whom its words came through."""
    it, (one, *_) = chain()
    one.take(
        Asked("three", BytesIO(encode([said("two", 9, key="three").passed("three")], ["two"])))
    )
    it.clock.pump([0] * 5)
    assert one.line.bodies == []


def client(*urls: str) -> PrimaryClient:
    """A client that never asks."""
    secret = NodeSecret(SECRET, lambda: NOW)
    return PrimaryClient(list(urls), cast(Any, None), as_clock(Clock()), secret, "n", lambda: NOW)


def test_who_is_behind_a_replica_looks_for_the_owner() -> None:
    """Only then, among the other candidates, in their order; the move is made between two polls,
    and at once when the replica fails."""
    clock, asked = Clock(), list[str]()
    owners = {"http://p.example"}
    of = client("http://r.example", "http://q.example", "http://p.example")

    async def owns(url: str) -> bool:
        asked.append(url)
        return url in owners

    search = OwnerSearch(of, as_clock(clock), owns, random.Random(1))
    search.start()
    clock.advance(LOOK_SECONDS)
    assert asked == []
    of.chain = ("r",)
    owners.clear()
    clock.advance(LOOK_SECONDS)
    assert asked == ["http://q.example", "http://p.example"]
    assert not of.take_preferred()
    owners.add("http://p.example")
    clock.advance(LOOK_SECONDS)
    assert of.url == "http://r.example"
    of.move_on(None)
    assert of.url == "http://p.example"
    of.move_on(None)
    assert of.url == "http://r.example"
    search.stop()
    clock.advance(LOOK_SECONDS)
    assert len(asked) == 4


def test_who_owns_the_log_is_said_by_itself() -> None:
    """Another primary that a poll names goes before one that was found."""
    of = client("http://r.example", "http://p.example")
    of.prefer("http://p.example")
    of.move_on("http://new.example/")
    assert of.url == "http://new.example"
    assert not of.take_preferred()


class Silent:
    """An HTTP client whose questions nobody answers."""

    def request(self, *args: object, **kw: object) -> Deferred[Any]:
        return Deferred()


def test_a_stop_does_not_wait_for_the_list_of_nodes() -> None:
    """The question is given up, and no other is waited for."""
    clock = as_clock(Clock())
    secret = NodeSecret(SECRET, lambda: NOW)
    asks = PrimaryClient(["http://p.example"], cast(Any, Silent()), clock, secret, "n", lambda: NOW)
    nodes = Siblings(asks, clock, "n", cast(Any, None))
    nodes.start()
    stopped = Deferred.fromCoroutine(nodes.stop())
    assert stopped.called
