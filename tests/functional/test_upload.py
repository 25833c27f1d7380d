"""twine, uv and devpi's index API against a primary and through a replica."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import evolve

from tests.builders import legacy_form, sdist, wheel
from tests.functional.helpers import (
    ROOT_PASSWORD,
    check_same_files,
    check_same_pages,
    check_same_roots,
    temporary_files,
    upload,
    wait_visible,
)
from tests.installers import pip_install, twine_upload, uv_publish
from tests.processes import Answer, Cluster, Node, basic

pytestmark = pytest.mark.functional

Nodes = tuple[Node, Node, Node]
KEY = basic("root", ROOT_PASSWORD)


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A primary with root/pypi (mirror) and root/dev (hosted, on top of it), and two replicas."""
    with Cluster(tmp_path_factory.mktemp("upload")) as cluster:
        upstream = cluster.upstream()
        upstream.add("json", wheel("from-upstream", "1.0"))
        primary = cluster.primary(f"{upstream.url}/json/simple/", root_password=ROOT_PASSWORD)
        primary.put_index("root/dev", ROOT_PASSWORD, type="stage", bases="root/pypi")
        yield primary, cluster.replica(primary, "replica-1"), cluster.replica(primary, "replica-2")


def _post(node: Node, path: str, body: tuple[str, bytes], key: dict[str, str]) -> Answer:
    headers = {**key, "Content-Type": body[0], "Accept": "application/json"}
    return node.request("POST", path, body=body[1], headers=headers)


@pytest.mark.parametrize("through", [0, 1], ids=["primary", "replica"])
@pytest.mark.parametrize("client", [twine_upload, uv_publish])
def test_clients(trio: Nodes, tmp_path: Path, through: int, client: Callable[..., None]) -> None:
    """twine and uv publish a wheel and an sdist by either node; the other replica shows them
    within a second, and they install together with what the base index has."""
    name = f"pkg-{client.__name__.split('_')[0]}-{through}"
    files = (wheel(name, "1.0", requires=["from-upstream"]), sdist(name, "1.0"))
    url = f"{trio[through].url}/root/dev/"
    client(url, *files, folder=tmp_path / "files", user="root", password=ROOT_PASSWORD)
    for built in files:
        wait_visible(trio[through], "root/dev", built, 0.01)
        wait_visible(trio[2], "root/dev", built, 1)
    check_same_files(trio, "root/dev", files)
    check_same_pages(trio, "root/dev", [name])
    pip_install(f"{trio[2].url}/root/dev/+simple/", name, target=tmp_path / "target")
    assert (tmp_path / "target" / "from_upstream.py").exists()


@pytest.mark.parametrize("through", [0, 1], ids=["primary", "replica"])
def test_same_name_again(trio: Nodes, through: int) -> None:
    """Identical bytes again are 200 and no change; other bytes are 409 that says why."""
    node = trio[through]
    built = wheel(f"again-{through}", "1.0")
    first = upload(node, "root/dev", built)
    assert first.status == 200, first
    serial = int(first.headers["x-pymirror-serial"])
    assert serial >= 1
    again = upload(node, "root/dev", built)
    assert again.status == 200, again
    assert trio[0].status()["serial"] == serial
    other = upload(node, "root/dev", wheel(f"again-{through}", "1.0", size=9))
    assert other.status == 409, other
    assert "already exists" in other.reason
    assert b"already exists" in other.body
    check_same_files(trio, "root/dev", [built])


@pytest.mark.parametrize("through", [0, 1], ids=["primary", "replica"])
def test_read_your_writes(trio: Nodes, through: int) -> None:
    """The node that took an upload shows it in the very next answer, twenty times over."""
    for n in range(20):
        built = wheel(f"mine-{through}", f"1.{n}")
        answer = upload(trio[through], "root/dev", built)
        assert answer.status == 200, answer
        assert built.filename in trio[through].file_urls("root/dev", built.name)


def test_replicas_show_uploads_soon(trio: Nodes) -> None:
    """Of 40 uploads to the primary each is on a replica's page well within a second."""
    delays = []
    for n in range(40):
        built = wheel("soon", f"1.{n}")
        assert upload(trio[0], "root/dev", built).status == 200
        start = time.monotonic()
        wait_visible(trio[1], "root/dev", built, 1)
        delays.append(time.monotonic() - start)
    assert sorted(delays)[len(delays) // 2] < 0.2, delays


@pytest.mark.parametrize("through", [0, 1], ids=["primary", "replica"])
@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/root/dev/", {}, 401),
        ("/root/dev", {}, 401),
        ("/root/dev/", basic("root", "wrong"), 401),
        ("/root/dev/", basic("root", ""), 401),
        ("/root/dev/", basic("nobody", "x"), 401),
        ("/root/absent/", KEY, 404),
        ("/root/pypi/", KEY, 404),
        ("/root/dev/+simple/", KEY, 405),
        ("/root/dev/+simple/x/", KEY, 405),
        ("/+status", KEY, 405),
    ],
)  # fmt: skip
def test_refused_before_reading(
    trio: Nodes, through: int, path: str, key: dict[str, str], status: int
) -> None:
    """Uploads by nobody, to nowhere and to pages are refused with the code that clients need."""
    answer = _post(trio[through], path, legacy_form(wheel("x", "1")), key)
    assert answer.status == status, answer
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Basic realm=")
    assert answer.headers["content-type"].startswith(("application/json", "text/plain"))
    assert answer.body


BAD = wheel("bad", "1.0")
LIAR = wheel("liar", "1.0")
JUNK = evolve(BAD, data=b"no zip", sha256=hashlib.sha256(b"no zip").hexdigest())


@pytest.mark.parametrize(
    ("what", "form"),
    [
        ("sha256", legacy_form(BAD, sha256_digest="0" * 64)),
        ("blake2", legacy_form(BAD, blake2_256_digest="0" * 64)),
        ("filename", legacy_form(BAD, filename="other-1.0-py3-none-any.whl")),
        ("version in filename", legacy_form(BAD, filename="bad-2.0-py3-none-any.whl")),
        ("name", legacy_form(BAD, name="other")),
        ("version", legacy_form(BAD, version="2.0")),
        ("path", legacy_form(BAD, filename="../bad-1.0-py3-none-any.whl")),
        ("not a distribution", legacy_form(BAD, filename="bad-1.0.txt")),
        ("no name", legacy_form(BAD, name=None)),
        ("no action", legacy_form(BAD, action=None)),
        ("unknown action", legacy_form(BAD, action="steal")),
        ("no multipart", ("text/plain", b"hello")),
        ("cut form", (legacy_form(BAD)[0], legacy_form(BAD)[1][:-40])),
        ("metadata in the wheel", legacy_form(LIAR, name="bad", filename=BAD.filename)),
        ("not a zip", legacy_form(JUNK)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("through", [0, 1], ids=["primary", "replica"])
def test_bad_uploads(trio: Nodes, through: int, what: str, form: tuple[str, bytes]) -> None:
    """An upload that contradicts itself is 400 with a reason, and leaves nothing behind."""
    serial = trio[0].status()["serial"]
    answer = _post(trio[through], "/root/dev/", form, KEY)
    assert answer.status == 400, (what, answer)
    assert answer.json()["message"]
    assert trio[0].status()["serial"] == serial
    assert trio[0].page("root/dev", "bad").status == 404
    assert [temporary_files(node) for node in trio] == [[], [], []]


@pytest.mark.parametrize("through", [0, 1], ids=["primary", "replica"])
@pytest.mark.parametrize("path", ["/no/such/index/", "/root/absent/", "/root/dev/+simple/"])
def test_hopeless_upload_is_cut_short(trio: Nodes, through: int, path: str) -> None:
    """300 MB for a URL that takes no uploads are refused within 8 MB, memory staying flat."""
    node = trio[through]
    before = node.rss_bytes()
    sent, answer = _push(node, path, KEY, 300_000_000)
    assert sent <= 8_000_000, sent
    assert answer[:12] in (b"HTTP/1.1 404", b"HTTP/1.1 405", b"HTTP/1.1 413"), answer[:200]
    assert node.rss_bytes() - before < 20_000_000
    assert temporary_files(node) == []


def test_hopeless_anonymous_upload_is_cut_short(trio: Nodes) -> None:
    """300 MB from nobody are refused within 8 MB."""
    sent, answer = _push(trio[0], "/root/dev/", {}, 300_000_000)
    assert sent <= 8_000_000, sent
    assert answer.startswith(b"HTTP/1.1 401"), answer[:200]


@pytest.mark.parametrize("through", [0, 1], ids=["primary", "replica"])
def test_client_that_gives_up(trio: Nodes, through: int) -> None:
    """An upload whose client goes away in the middle leaves no file, no entry, no trouble."""
    serial = trio[0].status()["serial"]
    content_type, body = legacy_form(wheel("gone", "1.0", size=3_000_000))
    head = _head(trio[through], "/root/dev/", KEY, content_type, len(body))
    with socket.create_connection(("127.0.0.1", trio[through].port), timeout=10) as client:
        client.sendall(head + body[: len(body) // 2])
    built = wheel(f"next-{through}", "1.0")
    assert upload(trio[through], "root/dev", built).status == 200
    check_same_roots(trio)
    assert trio[0].status()["serial"] > serial
    assert trio[0].page("root/dev", "gone").status == 404
    assert [temporary_files(node) for node in trio] == [[], [], []]


def _head(node: Node, path: str, key: dict[str, str], content_type: str, length: int) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{node.port}", f"Content-Type: {content_type}",
        f"Content-Length: {length}", *(f"{name}: {value}" for name, value in key.items()),
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _push(node: Node, path: str, key: dict[str, str], length: int) -> tuple[int, bytes]:
    """Send a body until the server answers or hangs up; bytes sent and the answer's start."""
    sent, chunk = 0, b"x" * 65_536
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        client.settimeout(10)
        client.connect(("127.0.0.1", node.port))
        client.sendall(_head(node, path, key, "multipart/form-data; boundary=x", length))
        client.settimeout(0.02)
        answer, deadline = b"", time.monotonic() + 10
        while sent < length and not answer and time.monotonic() < deadline:
            try:
                sent += client.send(chunk)
                answer = client.recv(4096, socket.MSG_DONTWAIT)
            except (TimeoutError, BlockingIOError):
                continue
            except OSError:
                break
        client.settimeout(5)
        return sent, answer or _rest(client)


def _rest(client: socket.socket) -> bytes:
    try:
        return client.recv(4096)
    except OSError:
        return b""
