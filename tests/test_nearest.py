"""Which node a client is sent to: networks, regions, shares, freshness; and what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from klein import Klein
from twisted.python import usage
from twisted.web.http_headers import Headers

from cluster.errors import InvalidRequest, Unavailable
from cluster.nearest import CONTACT_SECONDS, STALE_SECONDS, candidate, is_fresh, public, ranked
from cluster.networks import client_of, longest_prefix, parse_address, parse_networks
from cluster.web.identity import forwarded_for
from cluster.web.nearest import Nearest, add_routes
from primary.tap import Options as PrimaryOptions
from replica.siblings import REFRESH_SECONDS
from replica.tap import Options as ReplicaOptions


def node(uuid: str, **more: Any) -> dict[str, Any]:
    return {
        "uuid": uuid, "role": "replica", "url": f"http://{uuid}.example", "region": None,
        "networks": [], "weight": 100, "state": "in-sync", "lag_seconds": 0.0, "load": 0.0,
        "last_contact_seconds": 1.0, "healthy": True, **more,
    }  # fmt: skip


PRIMARY = node("p", role="primary", last_contact_seconds=0.0)


def best(nodes: list[dict[str, Any]], address: str = "192.0.2.7", region: str | None = None) -> str:
    found = [one for one in map(candidate, nodes) if one is not None]
    return ranked(found, parse_address(address), region)[0].uuid


def test_longest_prefix_comes_first() -> None:
    """The most special network wins over region and load, for both kinds of address."""
    nodes = [
        PRIMARY, node("wide", networks=["192.0.0.0/8"], region="here"),
        node("near", networks=["192.0.2.0/24", "2001:db8::/32"], load=9.0),
        node("here", region="here"),
    ]  # fmt: skip
    assert best(nodes, "192.0.2.7", "here") == "near"
    assert best(nodes, "192.9.9.9", "elsewhere") == "wide"
    assert best(nodes, "2001:db8::1", "here") == "near"
    assert best(nodes, "::ffff:192.0.2.7") == "near"
    assert best(nodes[2:], "203.0.113.1", "here") == "here"


@pytest.mark.parametrize(
    "sick",
    [
        {"healthy": False}, {"ready": False}, {"lag_seconds": STALE_SECONDS + 1},
        {"last_contact_seconds": CONTACT_SECONDS + 1}, {"lost_seconds": 4.0},
        {"state": "diverged"}, {"last_contact_seconds": None}, {"url": None}, {"url": "x"},
        {"url": "http://u:p@h.example"}, {"url": "http://h.example/ x"}, {"url": "ftp://h.example"},
    ],
)  # fmt: skip
def test_never_to_a_stale_one(sick: dict[str, Any]) -> None:
    """However near it is, a node in trouble is passed over; the primary is the last resort."""
    near = node("near", networks=["192.0.2.0/24"])
    assert best([PRIMARY, near]) == "near"
    assert best([PRIMARY, {**near, **sick}, node("far")]) == "far"
    assert best([PRIMARY, {**near, **sick}]) == "p"


def test_the_age_of_the_list_counts() -> None:
    """What was fresh in an old list is not fresh now."""
    assert is_fresh(node("a"), CONTACT_SECONDS - 2)
    assert not is_fresh(node("a"), CONTACT_SECONDS)
    assert REFRESH_SECONDS < CONTACT_SECONDS


def test_shares() -> None:
    """Equal nodes share the clients by weight and load, each client keeps its node, and a node
    that leaves moves only its own clients."""
    nodes = [node("a"), node("b", weight=200), node("c", load=1.0), node("drained", weight=0)]
    clients = [f"203.0.{n // 250}.{n % 250}" for n in range(2_000)]
    before = {client: best(nodes, client) for client in clients}
    counts = Counter(before.values())
    assert counts["drained"] == 0
    assert 1.6 < counts["b"] / counts["a"] < 2.5
    assert 0.35 < counts["c"] / counts["a"] < 0.7
    after = {client: best(nodes[1:], client) for client in clients}
    assert all(after[c] == n for c, n in before.items() if n != "a")
    assert best([nodes[3], PRIMARY]) == "drained"


@given(
    st.dictionaries(
        st.sampled_from(list(node("x"))),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=5,
        ),
    )
)
def test_garbage_in_the_list(garbage: dict[str, Any]) -> None:
    """No value in the list of nodes breaks the choice, or gets through as a URL of its own."""
    found = candidate({**node("x"), **garbage}, 0.0)
    if found is not None:
        assert found.url.startswith(("http://", "https://"))
        assert "\n" not in found.url
        ranked([found], parse_address("192.0.2.1"), "r")
        assert set(public([found])[0]) == {"url", "role", "region", "weight", "fresh"}


@pytest.mark.parametrize(
    ("peer", "header", "found"),
    [
        ("203.0.113.1", "192.0.2.9", "203.0.113.1"),  # no front of ours
        ("10.0.0.1", "192.0.2.9", "192.0.2.9"),
        ("10.0.0.1", "127.0.0.1, 192.0.2.9", "192.0.2.9"),  # the first was written by the client
        ("10.0.0.1", "192.0.2.9, 10.0.0.2", "192.0.2.9"),
        ("10.0.0.1", "192.0.2.9:4711", "192.0.2.9"),
        ("10.0.0.1", "[2001:db8::9]:4711", "2001:db8::9"),
        ("10.0.0.1", "192.0.2.9, unknown", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("::ffff:10.0.0.1", "192.0.2.9", "192.0.2.9"),
        ("10.0.0.1", "10.0.0.3,10.0.0.2", "10.0.0.3"),
    ],
)
def test_client_behind_fronts(peer: str, header: str | None, found: str) -> None:
    """Only what a trusted front has written is believed, and only the last such word."""
    assert str(client_of(peer, header, parse_networks("10.0.0.0/8"))) == found


def test_client_of_nothing() -> None:
    """A connection without an address (a Unix socket) is nobody's."""
    assert client_of("", "192.0.2.9", parse_networks("10.0.0.0/8")) is None
    assert longest_prefix((), parse_address("192.0.2.9")) == -1  # type: ignore[arg-type]


class FakeRequest:
    """What is read of a request."""

    def __init__(self, uri: str, peer: str = "192.0.2.7", forwarded: str = "") -> None:
        self.uri = uri.encode()
        self.args: dict[bytes, list[bytes]] = {}
        if "region=" in uri:
            self.args[b"region"] = [uri.partition("region=")[2].partition("&")[0].encode()]
        self.requestHeaders = Headers({b"Host": [b"asked.example:3141"]})
        if forwarded:
            self.requestHeaders.addRawHeader(b"X-Forwarded-For", b"127.0.0.1")
            self.requestHeaders.addRawHeader(b"X-Forwarded-For", forwarded.encode())
        self._peer = peer

    def getClientAddress(self) -> Any:
        return type("Address", (), {"host": self._peer})

    def header(self, name: str) -> str | None:
        values = self.requestHeaders.getRawHeaders(name)
        return str(values[0]) if values else None

    def isSecure(self) -> bool:
        return False


def sent(own: dict[str, Any], others: list[dict[str, Any]], request: Any, age: float = 0.0) -> str:
    nearest = Nearest(lambda: own, lambda: (others, age), parse_networks("10.0.0.0/8"))
    reply = nearest.redirect(request)
    assert (reply.status, reply.headers["Cache-Control"]) == (307, "no-store")
    return reply.headers["Location"]


OWN = node("own", url=None, ready=True, networks=["203.0.113.0/24"])


def test_redirect() -> None:
    """Path and query are kept as they were sent; fronts' words count where they are trusted."""
    others = [node("own", healthy=False), node("near", networks=["192.0.2.0/24"], region="there")]
    uri = "/+nearest/root/pypi/+simple/a%20b/?format=x&region=there&y=%2F"
    assert sent(OWN, others, FakeRequest(uri)) == (
        "http://near.example/root/pypi/+simple/a%20b/?format=x&y=%2F"
    )
    own = "http://asked.example:3141/x"
    assert sent(OWN, others, FakeRequest("/+nearest/x", "203.0.113.9")) == own
    assert sent(OWN, others, FakeRequest("/+nearest/x", "10.0.0.1", "203.0.113.9")) == own
    assert sent(OWN, [], FakeRequest("/+nearest//evil.example")) == (
        "http://asked.example:3141//evil.example"
    )


@pytest.mark.parametrize(
    "uri",
    [
        "/+nearest/+nearest/x",
        "/+nearest/%2Bnearest",
        "/+nearest/x/+nearest/",
        "/+nearest//+nearest",
    ],
)
def test_no_loops(uri: str) -> None:
    """A redirect to a redirect is refused, however it is spelled."""
    with pytest.raises(InvalidRequest):
        sent(OWN, [], FakeRequest(uri))


def test_alone() -> None:
    """Without a primary and fresh nodes, a node that is ready serves itself; else it is 503."""
    lagging = {**OWN, "lag_seconds": 99.0, "state": "primary-unreachable"}
    old = CONTACT_SECONDS + 1
    others = [PRIMARY, node("other")]
    assert sent(lagging, others, FakeRequest("/+nearest/x"), old).startswith("http://asked.")
    with pytest.raises(Unavailable):
        sent({**lagging, "ready": False}, others, FakeRequest("/+nearest/x"), old)


@pytest.mark.parametrize(
    ("peer", "header", "told"),
    [
        ("203.0.113.1", "", "203.0.113.1"), ("127.0.0.1", "", "127.0.0.1"),
        ("203.0.113.1", "192.0.2.9", "forwarded"),  # a front that nobody knows
        ("10.0.0.1", "192.0.2.9", "192.0.2.9"), ("10.0.0.1", "127.0.0.1", "forwarded"),
        ("10.0.0.1", "garbage", "forwarded"), ("10.0.0.1", "10.0.0.1", "forwarded"),
    ],
)  # fmt: skip
def test_whom_a_password_is_tried_for(peer: str, header: str, told: str) -> None:
    """Nobody behind a front is on this machine; of a trusted one the client's address counts."""
    request: Any = FakeRequest("/", peer, header)
    assert forwarded_for(request, parse_networks("10.0.0.0/8")) == told


def test_document() -> None:
    """The list for everybody has what clients need, and no address of anybody's network."""
    own = node("own", ready=True, networks=["203.0.113.0/24"])
    nearest = Nearest(lambda: own, lambda: ([node("b", healthy=False), PRIMARY], 0.0), ())
    request: Any = FakeRequest("/+nearest")
    assert b"203.0" not in nearest.document(request).body
    assert nearest.document(request).body.count(b'"fresh": true') == 2


def test_routes() -> None:
    """The list is one path, everything below it the redirect."""
    app = Klein()
    add_routes(app)
    match = app.url_map.bind("x").match
    assert match("/+nearest", "GET")[0] != match("/+nearest/", "GET")[0]
    assert match("/+nearest/a/b/", "GET")[0].startswith(match("/+nearest/", "GET")[0])


@pytest.mark.parametrize("options", [PrimaryOptions, ReplicaOptions])
def test_options(options: Any) -> None:
    """Region, networks, weight and trusted fronts are checked, and in the settings."""
    always = ["--primary-url", "http://p.example"] if options is ReplicaOptions else []
    made = options()
    made.parseOptions([
        *always, "--region", "eu-west", "--networks", "192.0.2.0/24, 2001:db8::/32",
        "--weight", "0", "--trusted-proxies", "127.0.0.0/8",
    ])  # fmt: skip
    settings = made.settings()
    assert (settings.region, settings.weight) == ("eu-west", 0)
    assert [str(n) for n in settings.networks] == ["192.0.2.0/24", "2001:db8::/32"]
    assert settings.trusted_proxies == parse_networks("127.0.0.0/8")
    for wrong in (
        ("--region", "a b"), ("--networks", "192.0.2.1/24"), ("--networks", "x"),
        ("--weight", "-1"), ("--weight", "1001"), ("--weight", "1.5"),
        ("--trusted-proxies", "10.0.0.0/33"), ("--networks", ",".join(["10.0.0.0/8"] * 33)),
    ):  # fmt: skip
        with pytest.raises(usage.UsageError):
            options().parseOptions([*always, *wrong])
