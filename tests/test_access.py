"""docs/access.md is right: each cell of its table, on a primary and through a replica."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from klein import Klein

from cluster.web.statusview import without_others
from primary.web import PrimaryWeb
from replica.web import ReplicaWeb
from tests.access_requests import REQUESTS, link, xmlrpc
from tests.access_site import CLOSED, DEMO, OPEN, AccessSite, Request, access_site
from tests.builders import Built, wheel
from tests.processes import Answer, Node, eventually

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "access.md"
ROLES = (
    "nobody", "other", "reader", "uploader", "admin", "owner", "root", "read token",
    "upload token", "expired token", "node", "open: nobody", "open: other",
)  # fmt: skip
_WRITES = {"PUT", "POST", "PATCH", "DELETE", "PUSH"}


def rows() -> dict[str, list[str]]:
    """The cells of each row of the table, by what is requested."""
    found = {}
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        match = re.fullmatch(r"`([A-Z]+ /[^`]*)`(.*)", cells[0])
        if match and len(cells) == len(ROLES) + 1:
            found[match[1] + match[2]] = cells[1:]
    return found


TABLE = rows()


def shown(rule: str) -> str:
    """A rule of the application as the table writes it."""
    path = re.sub(r"<(?:[^<>]*:)?(\w+)>", r"<\1>", rule).rstrip("/") or "/"
    path = re.sub(r"/<user>/<(?:name|index)>", "/<index>", path)
    for inner, word in (
        ("<kind>/<head>/<rest>/<filename>", "+f/<file>"), ("<filename>", "<file>"),
        ("pypi/<name>", "pypi/<project>"), ("<relpath>", "<page>"), (".p/<width>", ""),
        ("<serial>/<part>", "<serial>/<number>"),
    ):  # fmt: skip
        path = path.replace(inner, word)
    return path


def endpoints(app: Klein) -> set[str]:
    """All that an application answers, without what a replica passes on as it is."""
    return {
        f"{method} {shown(rule.rule)}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if "__rest__" not in rule.rule and not (rule.rule == "/" and method in _WRITES)
    }


def test_every_endpoint_has_a_row() -> None:
    """What a node answers is in the table, and the table has nothing else."""
    known = endpoints(PrimaryWeb.app) | endpoints(ReplicaWeb.app)
    assert len(known) > 50
    written = {" ".join(row.split(" ")[:2]) for row in TABLE}
    assert known - written == set()
    assert written - known == set()


def test_every_row_has_a_request() -> None:
    """Each row is tried."""
    assert TABLE.keys() == REQUESTS.keys()


def test_every_cell_is_written() -> None:
    """No cell is empty: a status, two of them where a replica differs, or a dash."""
    for row, cells in TABLE.items():
        assert all(re.fullmatch(r"\d{3}(/\d{3})?|–", cell) for cell in cells), row
        about_index = "<index>" in row or "of an index" in row
        assert about_index == ("–" not in cells), row


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AccessSite]:
    """The nodes."""
    with access_site(tmp_path_factory.mktemp("access")) as made:
        yield made


@pytest.mark.functional
@pytest.mark.parametrize("row", REQUESTS)
def test_cells(site: AccessSite, row: str) -> None:
    """Everybody gets what the table says, from the primary and through the replica."""
    seen = []
    for role in ROLES:
        index, who = (OPEN, role[6:]) if role.startswith("open: ") else (CLOSED, role)
        if index == OPEN and "–" in TABLE.get(row, ["–"])[-1] and row in TABLE:
            seen.append("–")
            continue
        statuses = []
        for node in (site.primary, site.replica):
            answer = site.send(node, who, REQUESTS[row](site, index))
            assert ("www-authenticate" in answer.headers) == (answer.status == 401), row
            statuses.append(str(answer.status))
        seen.append(statuses[0] if len(set(statuses)) == 1 else "/".join(statuses))
    assert seen == TABLE.get(row), f"observed: | `{row}` | {' | '.join(seen)} |"


# Beside the time, what says how far the node is: that is of the log as a whole.
_OF_THE_NODE = {"date", "x-pymirror-serial", "x-devpi-serial"}
_FORMATS = ("text/html", "application/json", "application/vnd.pypi.simple.v1+json")


def questions(index: str, secret: Built, newer: Built) -> Iterator[Request]:
    """All that can be asked about an index on whose base these two are, and may not be seen."""
    for project in (DEMO.name, secret.name):
        for path in (
            f"+simple/{project}/", project, f"{project}/{newer.version}",
            f"{project}/{DEMO.version}", f"{project}/latest", f"{project}/stable",
            f"{project}/+status", f"pypi/{project}/json", f"pypi/{project}/{newer.version}/json",
            f"{project}/latest/+doc/index.html", f"{project}/{newer.version}/+doc/index.html",
        ):  # fmt: skip
            for accept in _FORMATS:
                yield Request("GET", f"/{index}/{path}", headers={"Accept": accept})
    for built in (secret, newer):
        for end in ("", ".metadata"):
            yield Request("GET", f"/{index}/{link(built)}{end}")
        provenance = f"{built.name}/{built.version}/{built.filename}/provenance"
        yield Request("GET", f"/{index}/+integrity/{provenance}")
        yield xmlrpc(index, "search", {"name": [built.name]}, "and")
    for path in (f"/{index}", f"/{index}?no_projects=", f"/{index}/+api", f"/{index}/+simple/"):
        for accept in _FORMATS:
            yield Request("GET", path, headers={"Accept": accept})
    yield xmlrpc(index, "list_packages_with_serial")
    yield xmlrpc(index, "changelog_since_serial", 0)


def seen(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """What can be learned from an answer."""
    headers = {k: v for k, v in answer.headers.items() if k not in _OF_THE_NODE}
    return answer.status, headers, answer.body


def hits(site: AccessSite, node: Node, role: str, project: str, index: str = "") -> bool:
    """Whether the search finds a project for somebody."""
    where = f"&index={index}" if index else ""
    answer = site.send(node, role, Request("GET", f"/+search?query={project}{where}"))
    assert answer.status == 200, answer
    return any(hit["name"] == project for hit in answer.json()["result"]["hits"])


@pytest.mark.functional
@pytest.mark.parametrize("through", ["primary", "replica"])
def test_bases_do_not_leak(site: AccessSite, through: str) -> None:
    """Who may read an index and not its base learns nothing of what is on the base: all answers
    stay as they were, to the byte, whatever happens there; a reader of the base sees it all.
    """
    node = site.replica if through == "replica" else site.primary
    base = site.index(CLOSED)
    child = site.index(OPEN, base)
    site.upload(child, DEMO)
    secret, newer = wheel(site.name("secret"), "2.0"), wheel(DEMO.name, "2.0")
    asked = list(questions(child, secret, newer))

    def all_answers(role: str) -> list[tuple[int, dict[str, str], bytes]]:
        serial = site.primary.status()["serial"]
        site.replica.wait_serial(serial)
        eventually(lambda: node.status()["search"]["serial"] >= serial, 20, "the search follows")
        return [seen(site.send(node, role, request)) for request in asked]

    before = {role: all_answers(role) for role in ("nobody", "other", "uploader")}
    for built in (secret, newer):
        site.upload(base, built)
        site.document(base, built)
    for role in ("nobody", "other"):
        for request, old, new in zip(asked, before[role], all_answers(role), strict=True):
            assert new == old, (role, request)
    changed = [
        old != new for old, new in zip(before["uploader"], all_answers("uploader"), strict=True)
    ]
    assert sum(changed) > len(asked) * 0.7
    eventually(lambda: hits(site, node, "uploader", secret.name, child), 10, "the search")
    for role in ("nobody", "other"):
        assert not hits(site, node, role, secret.name, child)
        assert not hits(site, node, role, secret.name)
        for path in ("/", "/team", "/+status"):
            assert secret.name.encode() not in site.send(node, role, Request("GET", path)).body


def test_status_of_restricted_indexes() -> None:
    """Who may not read an index does not see in the status that it is there."""
    document = {
        "serial": 7,
        "upstreams": {"team/mirror": {"failing": {"secret": {}}}, "team/open": {"requests": 1}},
        "files": {"count": 1, "failures": [
            {"source": "team/mirror", "file": "secret-1.0.tar.gz"}, {"source": "team/open"},
            {"source": "primary", "file": "secret-2.0.tar.gz"},
        ]},
        "triggers": [{"index": "team/mirror"}, {"index": "team/open"}],
    }  # fmt: skip
    assert without_others(document, {"team/open"}) == {
        "serial": 7,
        "upstreams": {"team/open": {"requests": 1}},
        "files": {"count": 1, "failures": [{"source": "team/open"}]},
        "triggers": [{"index": "team/open"}],
    }


@pytest.mark.functional
def test_status(site: AccessSite) -> None:
    """The status names a restricted mirror that fails only to those who may read it."""
    mirror = "team/" + site.name("mirror")
    site.by_root(
        "PUT", f"/{mirror}", type="mirror", mirror_url="http://127.0.0.1:9/", acl_pkg_read=["rita"]
    )
    page = Request("GET", f"/{mirror}/+simple/secret-thing/")
    assert site.send(site.primary, "reader", page).status == 502
    status = Request("GET", "/+status")
    for role, named in (("nobody", False), ("other", False), ("reader", True), ("root", True)):
        answer = site.send(site.primary, role, status)
        assert answer.status == 200
        assert (b"secret-thing" in answer.body) == named, role
        assert (mirror.encode() in answer.body) == named, role
