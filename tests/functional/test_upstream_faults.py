"""What an upstream does wrong stays its own trouble: clients get what is good, or an error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Built, wheel
from tests.functional.helpers import check_same_pages, no_temporary_files, wait_visible
from tests.installers import pip_install
from tests.processes import Answer, Cluster, Node, Upstream, eventually, http

pytestmark = pytest.mark.functional

Trio = tuple[Upstream, Node, Node]
AGE = "x-pymirror-upstream-age"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """An upstream, a primary with root/pypi (default times), root/now (asks upstream at each
    request) and root/nohash, and a replica."""
    with Cluster(tmp_path_factory.mktemp("faults")) as nodes:
        upstream = nodes.upstream()
        primary = nodes.primary(f"{upstream.url}/json/simple/")
        primary.put_index(
            "root/now", type="mirror", mirror_url=f"{upstream.url}/json/simple/",
            mirror_cache_expiry=0, max_stale=0,
        )  # fmt: skip
        primary.put_index("root/nohash", type="mirror", mirror_url=f"{upstream.url}/nohash/")
        yield upstream, primary, nodes.replica(primary)


@pytest.fixture
def trio(cluster: Trio) -> Iterator[Trio]:
    """The cluster with an upstream that behaves until the test says otherwise."""
    cluster[0].clear()
    cluster[0].forget()
    yield cluster
    cluster[0].clear()


def _path(built: Built) -> str:
    return f"/json/files/{built.name}/{built.filename}"


def _fetches_nothing(node: Node) -> bool:
    return not node.status()["files"]["fetching"]


def _failing(primary: Node, index: str) -> dict[str, Any]:
    failing: dict[str, Any] = primary.status()["upstreams"][index]["failing"]
    return failing


@pytest.mark.parametrize(
    "fault", [{"flip": True}, {"short": 70_000}, {"cut": 700}, {"status": 500}, {"status": 404}],
    ids=["wrong", "short", "cut", "500", "404"],
)  # fmt: skip
def test_broken_file(trio: Trio, request: pytest.FixtureRequest, fault: dict[str, Any]) -> None:
    """A file that arrives wrong or short is never delivered as whole, never kept, and is right
    as soon as upstream is."""
    upstream, primary, replica = trio
    built = wheel(f"broken-{request.node.callspec.id}", "1.0", size=200_000)
    upstream.add("json", built)
    upstream.fault(_path(built), **fault)
    for node in (replica, primary):
        url = node.file_urls("root/pypi", built.name)[built.filename]
        try:
            answer = http("GET", url)
        except (HTTPException, ConnectionError):
            pass
        else:
            assert answer.status >= 500 or answer.status == 404, answer
    assert upstream.counts()[_path(built)] >= 2
    for node in (replica, primary):
        # A replica may be asking its next source still, and who comes then shares the answer.
        eventually(partial(_fetches_nothing, node), 10, "all are given up")
    no_temporary_files(primary, replica)
    failures = primary.status()["files"]["failures"]
    assert any(failure["file"] == built.filename and failure["error"] for failure in failures)
    upstream.clear()
    for node in (replica, primary):
        url = node.file_urls("root/pypi", built.name)[built.filename]
        assert http("GET", url).body == built.data


@pytest.mark.parametrize(
    "fault",
    [{"status": 500}, {"status": 403}, {"status": 404}, {"body": '{"meta": {"api-version": "1'},
     {"body": "[]"}, {"body": ""}, {"cut": 10}, {"short": 30}],
    ids=["500", "403", "404", "cut-json", "list", "empty", "cut", "short"],
)  # fmt: skip
def test_broken_page(trio: Trio, request: pytest.FixtureRequest, fault: dict[str, Any]) -> None:
    """When upstream's page goes bad, both nodes serve the last good one; a healed upstream's
    news come through at once."""
    upstream, primary, replica = trio
    name = f"page-{request.node.callspec.id}"
    built, newer = wheel(name, "1.0"), wheel(name, "1.1")
    upstream.add("json", built)
    good = replica.page("root/now", name)
    assert good.status == 200, good
    upstream.add("json", newer)
    upstream.fault(f"/json/simple/{name}/", **fault)
    serial = primary.status()["serial"]
    for node in (primary, replica, primary, replica):
        page = node.page("root/now", name)
        assert (page.status, page.body) == (200, good.body)
        if fault != {"status": 404}:
            assert AGE in page.headers, page.headers
    assert primary.status()["serial"] == serial
    if fault != {"status": 404}:
        assert _failing(primary, "root/now")[name]["error"]
    upstream.clear()
    for node in (replica, primary):
        wait_visible(node, "root/now", newer, 0.5)
    assert name not in _failing(primary, "root/now")


def test_broken_list(trio: Trio) -> None:
    """When upstream's project list goes bad, both nodes serve the last good one, with its age,
    and status says that the list fails, until it does not."""
    upstream, primary, replica = trio
    path = "/root/now/+simple/"
    upstream.add("json", wheel("listed", "1.0"))
    good = replica.get(path)
    assert (good.status, b"listed" in good.body, AGE in good.headers) == (200, True, False)
    upstream.fault("/json/simple/", status=500)
    for node in (primary, replica):
        answer = node.get(path)
        assert (answer.status, answer.body) == (200, good.body)
        assert AGE in answer.headers
    assert _failing(primary, "root/now")["(project list)"]["since"]
    upstream.clear()
    eventually(lambda: AGE not in replica.get(path).headers, 5, "the list is asked for again")
    assert "(project list)" not in _failing(primary, "root/now")


def test_never_seen(trio: Trio) -> None:
    """Of a project never seen, an upstream error is 502 and its 404 is 404; neither is logged."""
    upstream, primary, replica = trio
    upstream.fault("/json/simple/never/", status=500)
    serial = primary.status()["serial"]
    for node in (replica, primary):
        assert node.page("root/pypi", "never").status == 502
        for n in range(10):
            assert node.page("root/pypi", f"absent-{n}").status == 404
    counts = upstream.counts()
    assert [counts[f"/json/simple/absent-{n}/"] for n in range(10)] == [1] * 10
    assert primary.status()["serial"] == serial


@pytest.mark.parametrize("fault", [{"hold": True}, {"stall": 20}], ids=["hold", "stall"])
def test_slow_project_delays_no_other(
    trio: Trio, request: pytest.FixtureRequest, fault: dict[str, Any]
) -> None:
    """While upstream is silent about one project, others are answered by both nodes."""
    upstream, primary, replica = trio
    kind = request.node.callspec.id
    slow, other = wheel(f"slow-{kind}", "1.0"), wheel(f"other-{kind}", "1.0")
    upstream.add("json", slow, other)
    upstream.fault(f"/json/simple/{slow.name}/", **fault)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(node.page, "root/pypi", slow.name) for node in (primary, replica)]
        eventually(lambda: upstream.counts()[f"/json/simple/{slow.name}/"], 5, "asked")
        start = time.monotonic()
        for node in (primary, replica):
            assert other.filename in node.file_urls("root/pypi", other.name)
        assert time.monotonic() - start < 2
        assert not any(one.done() for one in waiting)
        upstream.clear()
        if kind == "hold":
            assert [one.result().status for one in waiting] == [200, 200]
            assert upstream.counts()[f"/json/simple/{slow.name}/"] == 1
    assert replica.page("root/pypi", other.name).status == 200


def test_one_fetch_for_many_clients(trio: Trio) -> None:
    """Twenty clients of both nodes that want one new page and one new file at once cost the
    upstream one request each."""
    upstream, primary, replica = trio
    built = wheel("crowd", "1.0", size=2_000_000)
    upstream.add("json", built)
    upstream.fault("/json/simple/crowd/", hold=True)
    upstream.fault(_path(built), hold=True)
    both = [primary, replica] * 10
    with ThreadPoolExecutor(20) as pool:
        pages = [pool.submit(node.page, "root/pypi", "crowd") for node in both]
        eventually(lambda: upstream.counts()["/json/simple/crowd/"], 5, "page asked")
        upstream.clear()
        assert [page.result().status for page in pages] == [200] * 20
        upstream.fault(_path(built), hold=True)
        urls = [node.file_urls("root/pypi", "crowd")[built.filename] for node in both]
        files = [pool.submit(http, "GET", url) for url in urls]
        eventually(lambda: upstream.counts()[_path(built)], 5, "file asked")
        upstream.clear()
        assert all(file.result().body == built.data for file in files)
    counts = upstream.counts()
    assert (counts["/json/simple/crowd/"], counts[_path(built)]) == (1, 1)


def test_conditional_requests(trio: Trio) -> None:
    """Asking again is conditional, and "nothing new" neither changes the page nor the log."""
    upstream, primary, replica = trio
    upstream.add("json", wheel("still", "1.0"))
    pages = [replica.page("root/now", "still")]
    serial = primary.status()["serial"]
    pages += [node.page("root/now", "still") for node in (primary, replica, replica)]
    assert {page.body for page in pages} == {pages[0].body}
    requests = [r for r in upstream.requests() if r["path"] == "/json/simple/still/"]
    assert len(requests) >= 3
    assert [r["status"] for r in requests] == [200] + [304] * (len(requests) - 1)
    assert primary.status()["serial"] == serial


def test_changes_come_through(trio: Trio) -> None:
    """Files added, yanked and removed upstream are so on the replica's next page."""
    upstream, primary, replica = trio
    old, new = wheel("moving", "1.0"), wheel("moving", "1.1", requires_python=">=3.7")
    upstream.add("json", old)
    assert list(replica.file_urls("root/now", "moving")) == [old.filename]
    upstream.add("json", new)
    upstream.yank("json", old, "does not work")
    listed = {f["filename"]: f for f in replica.page("root/now", "moving").json()["files"]}
    assert set(listed) == {old.filename, new.filename}
    assert listed[old.filename]["yanked"] == "does not work"
    assert listed[new.filename]["requires-python"] == ">=3.7"
    assert listed[new.filename]["size"] == len(new.data)
    assert listed[new.filename]["core-metadata"] == {"sha256": new.metadata_sha256}
    assert listed[new.filename]["upload-time"].endswith("Z")
    upstream.remove("json", old)
    assert list(replica.file_urls("root/now", "moving")) == [new.filename]
    check_same_pages((primary, replica), "root/now", ["moving"])


def test_page_of_a_replica_is_404_where_upstream_says_so(trio: Trio) -> None:
    """A name that appears upstream after a 404 is there once the 404 has expired."""
    upstream, _, replica = trio
    assert replica.page("root/now", "late").status == 404
    built = wheel("late", "1.0")
    upstream.add("json", built)
    wait_visible(replica, "root/now", built, 1)


def test_upstream_without_hashes(trio: Trio, tmp_path: Path) -> None:
    """pip installs from an upstream that gives no hashes; once fetched, pages know the hash."""
    upstream, primary, replica = trio
    app = wheel("plain", "1.0+cu116", requires=["plain-lib"], size=50_000)
    upstream.add("nohash", app, wheel("plain-lib", "2.0"))
    for node in (replica, primary):
        target = tmp_path / node.name
        pip_install(f"{node.url}/root/nohash/+simple/", "plain", target=target)
        assert "1.0+cu116" in (target / "plain.py").read_text()
        assert (target / "plain_lib.py").exists()

    def sha256_known() -> bool:
        (file,) = replica.page("root/nohash", "plain").json()["files"]
        known: bool = file["hashes"] == {"sha256": app.sha256}
        return known

    eventually(sha256_known, 3, "the digest of the fetched file is on the page")
    upstream.fault("/nohash/plain-1.0+cu116-py3-none-any.whl", status=500)
    for node in (replica, primary):
        url = node.file_urls("root/nohash", "plain")[app.filename]
        answer: Answer = http("GET", url)
        assert answer.body == app.data
