"""Real pip and uv, and what poetry does, against indexes that not everybody may read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urljoin

import pytest
from attrs import frozen

from tests.builders import wheel
from tests.functional.helpers import ROOT_PASSWORD, upload
from tests.installers import pip_install, uv_install
from tests.processes import Answer, Cluster, Node, basic, http

pytestmark = pytest.mark.functional

PASSWORD = "p@ss:w/rd? 100%"
APP = wheel("team-app", "1.0", requires=["team-lib>=1", "Open_Lib"])
LIB, OTHER = wheel("team-lib", "1.2"), wheel("open-lib", "2.0")
NODES = pytest.mark.parametrize("through", ["primary", "replica"])
CLIENTS = pytest.mark.parametrize("install", [pip_install, uv_install])
Install = Callable[..., None]


@frozen
class Site:
    """team/dev, for ann and bob, on top of team/base, for ann, and team/open, for everybody;
    `tokens` are ann's, by what they are for.
    """

    primary: Node
    replica: Node
    tokens: dict[str, str]

    def node(self, name: str) -> Node:
        return self.replica if name == "replica" else self.primary

    def url(self, name: str, user: str, password: str) -> str:
        """The index as it stands in a user's configuration."""
        pair = f"{quote(user)}:{quote(password, safe='')}"
        return f"http://{pair}@127.0.0.1:{self.node(name).port}/team/dev/+simple/"


def put(node: Node, path: str, key: dict[str, str], **body: object) -> Answer:
    method = "POST" if path == "/+tokens" else "PUT"
    headers = {**key, "Content-Type": "application/json", "Accept": "application/json"}
    answer = node.request(method, path, body=json.dumps(body).encode(), headers=headers)
    assert answer.status in (200, 201), answer
    return answer


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The nodes, with three packages that need each other, each on an index of its own."""
    with Cluster(tmp_path_factory.mktemp("restricted")) as cluster:
        primary = cluster.primary(None, root_password=ROOT_PASSWORD)
        for user in ("ann", "bob", "team"):
            put(primary, f"/{user}", {}, password=PASSWORD)
        for index, bases, readers, built in (
            ("team/open", [], [":ANONYMOUS:"], OTHER),
            ("team/base", [], ["ann"], LIB),
            ("team/dev", ["team/base", "team/open"], ["ann", "bob"], APP),
        ):
            primary.put_index(
                index, ROOT_PASSWORD, type="stage", bases=bases, acl_pkg_read=readers,
                acl_upload=["root"],
            )  # fmt: skip
            assert upload(primary, index, built).status == 200
        ann = basic("ann", PASSWORD)
        tokens = {
            "all": put(primary, "/+tokens", ann, actions=["read"]),
            "these": put(
                primary, "/+tokens", ann, actions=["read"], indexes=["team/dev", "team/base"]
            ),
            "one index": put(primary, "/+tokens", ann, actions=["read"], indexes=["team/base"]),
            "upload": put(primary, "/+tokens", ann, actions=["upload"]),
        }
        replica = cluster.replica(primary)
        replica.wait_serial(primary.status()["serial"])
        yield Site(
            primary, replica, {k: a.json()["result"]["token"] for k, a in tokens.items()}
        )  # fmt: skip


@NODES
@CLIENTS
def test_with_a_password(site: Site, tmp_path: Path, through: str, install: Install) -> None:
    """Credentials in the URL reach pages, metadata and files of the index and of its bases."""
    install(site.url(through, "ann", PASSWORD), "team-app", target=tmp_path / "there")
    for module, version in (("team_app", "1.0"), ("team_lib", "1.2"), ("open_lib", "2.0")):
        assert f"VERSION = {version!r}" in (tmp_path / "there" / f"{module}.py").read_text()


@NODES
@CLIENTS
@pytest.mark.parametrize("scope", ["all", "these"])
def test_with_a_token(
    site: Site, tmp_path: Path, through: str, install: Install, scope: str
) -> None:
    """So does an API token, as __token__ or with its user's name."""
    for user in ("__token__", "ann"):
        url = site.url(through, user, site.tokens[scope])
        install(url, "team-app", target=tmp_path / user)
        assert (tmp_path / user / "team_lib.py").exists()


@NODES
@CLIENTS
@pytest.mark.parametrize(
    "who", ["wrong password", "stranger", "one index", "upload", "nobody", "no such user"]
)
def test_refused(site: Site, tmp_path: Path, through: str, install: Install, who: str) -> None:
    """Wrong passwords, strangers, tokens for other things, and nobody, install nothing."""
    node = site.node(through)
    urls = {
        "wrong password": site.url(through, "ann", "wrong"),
        "stranger": site.url(through, "team", "wrong"),
        "one index": site.url(through, "__token__", site.tokens["one index"]),
        "upload": site.url(through, "__token__", site.tokens["upload"]),
        "nobody": f"{node.url}/team/dev/+simple/",
        "no such user": site.url(through, "carl", PASSWORD),
    }
    with pytest.raises(AssertionError, match=r"ended with [12]"):
        install(urls[who], "team-app", target=tmp_path / "there")
    assert not (tmp_path / "there" / "team_app.py").exists()


@NODES
@CLIENTS
def test_bases_do_not_leak(site: Site, tmp_path: Path, through: str, install: Install) -> None:
    """bob, who may read the index and not its base, gets what is his; the rest does not exist."""
    url = site.url(through, "bob", PASSWORD)
    install(url, "open-lib", target=tmp_path / "his")
    assert (tmp_path / "his" / "open_lib.py").exists()
    with pytest.raises(AssertionError, match="team-lib"):
        install(url, "team-app", target=tmp_path / "not")


class Links(HTMLParser):
    """The targets of all links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, bool]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "a":
            self.found.append((values["href"] or "", "data-core-metadata" in values))


@NODES
@pytest.mark.parametrize("accept", ["text/html", "application/vnd.pypi.simple.v1+json"])
def test_as_poetry_asks(site: Site, through: str, accept: str) -> None:
    """Basic with each request, as poetry sends it: pages, metadata and files give 200, all
    below the index's own URL; without it there is nothing, in any of the three places.
    """
    node, key = site.node(through), basic("ann", PASSWORD)
    for built in (APP, LIB, OTHER):
        page = f"{node.url}/team/dev/+simple/{built.name}/"
        assert http("GET", page, headers={"Accept": accept}).status == 401
        answer = http("GET", page, headers={"Accept": accept, **key})
        assert answer.status == 200
        assert "private" in answer.headers["cache-control"]
        [(link, has_metadata)] = (
            Links(answer.body.decode()).found
            if accept == "text/html"
            else [(f["url"], bool(f["core-metadata"])) for f in answer.json()["files"]]
        )
        url = urljoin(page, link).partition("#")[0]
        assert url.startswith(f"{node.url}/team/dev/")
        assert has_metadata
        for there, body in ((url, built.data), (f"{url}.metadata", built.metadata)):
            assert http("GET", there, headers=key).body == body
            assert http("GET", there).status in (401, 404)
            assert http("GET", there, headers=basic("team", "x")).status in (401, 404)
