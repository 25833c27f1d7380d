"""twine, uv and devpi's index API against a primary and through a replica."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import socket
import time
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import evolve

from tests.builders import legacy_form, multipart, sdist, wheel
from tests.functional.helpers import (
    ROOT_PASSWORD,
    check_same_files,
    check_same_pages,
    check_same_roots,
    no_temporary_files,
    upload,
    wait_visible,
)
from tests.installers import pip_install, twine_upload, uv_publish
from tests.processes import Answer, Cluster, Node, basic, http

pytestmark = pytest.mark.functional

Nodes = tuple[Node, Node, Node]
KEY = basic("root", ROOT_PASSWORD)
B64 = base64.b64encode(b"of a test").decode()
ATTESTATION = {
    "version": 1,
    "verification_material": {"certificate": B64, "transparency_entries": [{"logIndex": "1"}]},
    "envelope": {"statement": B64, "signature": B64},
}


def multipart_fields(fields: dict[str, str]) -> tuple[str, bytes]:
    """A form without a file as browsers and old tools send it."""
    content_type, body = multipart(fields, "", b"")
    boundary = content_type.partition("boundary=")[2]
    parts = body.decode().split(f"--{boundary}")[1:-2]
    text = "".join(f"--{boundary}{part}" for part in parts) + f"--{boundary}--\r\n"
    return content_type, text.encode()


def urlencoded_fields(fields: dict[str, str]) -> tuple[str, bytes]:
    """A form without a file as requests sends it for devpi-client."""
    return "application/x-www-form-urlencoded", urllib.parse.urlencode(fields).encode()


def docs_zip(*names: str) -> bytes:
    """Documentation with these pages."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), f"<h1>{name}</h1>")
    return out.getvalue()


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A primary with root/pypi (mirror), root/dev (hosted, on top of it), root/vol (volatile); and
    two replicas."""
    with Cluster(tmp_path_factory.mktemp("upload")) as cluster:
        upstream = cluster.upstream()
        upstream.add("json", wheel("from-upstream", "1.0"))
        primary = cluster.primary(f"{upstream.url}/json/simple/", root_password=ROOT_PASSWORD)
        primary.put_index(
            "root/dev", ROOT_PASSWORD, type="stage", bases="root/pypi", volatile=False
        )
        primary.put_index("root/vol", ROOT_PASSWORD, type="stage")
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
    assert b"already" in again.body
    assert trio[0].status()["serial"] == serial
    other = upload(node, "root/dev", wheel(f"again-{through}", "1.0", size=9))
    assert other.status == 409, other
    assert "already exists" in other.reason
    assert b"already exists" in other.body
    check_same_files(trio, "root/dev", [built])


@pytest.mark.parametrize("through", [0, 1], ids=["primary", "replica"])
def test_volatile_index(trio: Nodes, through: int) -> None:
    """A volatile index takes identical bytes as nothing new, and other bytes as a replacement."""
    node, name = trio[through], f"changing-{through}"
    old, new = wheel(name, "1.0"), wheel(name, "1.0", size=9)
    first = upload(node, "root/vol", old)
    assert (
        upload(node, "root/vol", old).headers["x-pymirror-serial"]
        == (first.headers["x-pymirror-serial"])
    )
    link = node.file_urls("root/vol", name)[old.filename]
    assert upload(node, "root/vol", new).status == 200
    check_same_roots(trio)
    check_same_files(trio, "root/vol", [new])
    assert http("GET", link).status == 410


@pytest.mark.parametrize("through", [0, 1], ids=["primary", "replica"])
@pytest.mark.parametrize("encoded", [multipart_fields, urlencoded_fields])
def test_submit(
    trio: Nodes, through: int, encoded: Callable[[dict[str, str]], tuple[str, bytes]]
) -> None:
    """`submit` registers a release without a file; the project is there for all to see."""
    name = f"registered-{through}-{encoded.__name__[:5]}"
    fields = {":action": "submit", "name": name, "version": "1.0", "summary": "S"}
    answer = _post(trio[through], "/root/dev/", encoded(fields), KEY)
    assert answer.status == 200, answer
    page = trio[through].page("root/dev", name)
    assert page.status == 200, page
    assert page.json()["files"] == []
    again = _post(trio[through], "/root/dev", encoded(fields), KEY)
    assert again.headers["x-pymirror-serial"] == answer.headers["x-pymirror-serial"]


@pytest.mark.parametrize("through", [0, 1], ids=["primary", "replica"])
def test_docs(trio: Nodes, through: int) -> None:
    """A zip of documentation is kept for its release, byte for byte on every node."""
    name, data = f"documented-{through}", docs_zip("index.html", f"{through}.html")
    fields = {":action": "doc_upload", "name": name, "version": ""}
    nameless = multipart(fields, "docs.zip", data)
    assert _post(trio[through], "/root/dev/", nameless, KEY).status == 400
    assert upload(trio[through], "root/dev", wheel(name, "1.5")).status == 200
    answer = _post(trio[through], "/root/dev/", nameless, KEY)
    assert answer.status == 200, answer
    digest = hashlib.sha256(data).hexdigest()
    path = f"/root/dev/+f/{digest[:3]}/{digest[3:16]}/{name}-1.5.doc.zip"
    check_same_roots(trio)
    for node in trio:
        assert node.get(path).body == data
    bad = multipart({**fields, "version": "2"}, "docs.zip", docs_zip("../x"))
    refused = _post(trio[through], "/root/dev/", bad, KEY)
    assert (refused.status, "outside" in refused.reason) == (400, True), refused


@pytest.mark.parametrize("through", [0, 1], ids=["primary", "replica"])
def test_stages(trio: Nodes, through: int) -> None:
    """Files uploaded into a stage are seen by nobody until they are published, all at once."""
    node, name = trio[through], f"staged-{through}"
    built = (wheel(name, "1.0"), sdist(name, "1.0"))
    for one in built:
        answer = _post(node, "/root/dev/?stage=r1", legacy_form(one), KEY)
        assert answer.status == 200, answer
    digest = built[0].sha256
    link = f"/root/dev/+f/{digest[:3]}/{digest[3:16]}/{built[0].filename}"
    assert (node.page("root/dev", name).status, node.get(link).status) == (404, 404)
    assert node.get("/root/dev/+stages").status == 401
    listed = node.request("GET", "/root/dev/+stages", headers=KEY).json()["result"]
    files = sorted(one.filename for one in built)
    assert [(s["id"], sorted(s["files"])) for s in listed] == [("r1", files)]
    done = node.request("POST", "/root/dev/+stages/r1/publish", headers=KEY)
    assert done.status == 200, done
    assert sorted(node.file_urls("root/dev", name)) == files
    check_same_roots(trio)
    check_same_files(trio, "root/dev", built)
    again = node.request("POST", "/root/dev/+stages/r1/publish", headers=KEY)
    assert again.status == 404, again


@pytest.mark.parametrize("through", [0, 1], ids=["primary", "replica"])
@pytest.mark.parametrize("client", [twine_upload, uv_publish])
def test_clients_with_stages(
    trio: Nodes, tmp_path: Path, through: int, client: Callable[..., None]
) -> None:
    """twine and uv upload into a stage when their URL names one."""
    name = f"through-stage-{client.__name__[:2]}-{through}"
    built = (wheel(name, "1.0"), sdist(name, "1.0"))
    url = f"{trio[through].url}/root/dev/?stage={name}"
    client(url, *built, folder=tmp_path, user="root", password=ROOT_PASSWORD)
    assert trio[through].page("root/dev", name).status == 404
    done = trio[through].request("POST", f"/root/dev/+stages/{name}/publish", headers=KEY)
    assert done.status == 200, done
    check_same_roots(trio)
    check_same_files(trio, "root/dev", built)


@pytest.mark.parametrize("through", [0, 1], ids=["primary", "replica"])
def test_stage_with_conflict(trio: Nodes, through: int) -> None:
    """A stage with a name that was taken meanwhile is not published, and can be dropped."""
    node, name = trio[through], f"late-{through}"
    first, second = wheel(name, "1.0"), wheel(name, "2.0")
    for one in (first, second):
        assert _post(node, "/root/dev/?stage=r2", legacy_form(one), KEY).status == 200
    assert upload(node, "root/dev", wheel(name, "1.0", size=9)).status == 200
    refused = node.request("POST", "/root/dev/+stages/r2/publish", headers=KEY)
    assert refused.status == 409, refused
    assert first.filename in refused.body.decode()
    assert second.filename not in node.file_urls("root/dev", name)
    assert node.request("DELETE", "/root/dev/+stages/r2", headers=KEY).status == 200
    assert node.request("GET", "/root/dev/+stages", headers=KEY).json()["result"] == []
    bad = _post(node, "/root/dev/?stage=a%2Fb", legacy_form(second), KEY)
    assert bad.status == 400, bad


@pytest.mark.parametrize("through", [0, 1], ids=["primary", "replica"])
def test_attestations(trio: Nodes, through: int, tmp_path: Path) -> None:
    """What uv sends beside a file is served as its provenance by every node, and refused if odd."""
    name = f"attested-{through}"
    built, other = wheel(name, "1.0"), wheel(name, "2.0")
    beside = evolve(
        built,
        filename=f"{built.filename}.publish.attestation",
        data=json.dumps(ATTESTATION).encode(),
    )
    url = f"{trio[through].url}/root/dev/"
    uv_publish(url, built, beside, folder=tmp_path, user="root", password=ROOT_PASSWORD)
    check_same_roots(trio)
    seen = {node.get(_provenance(name, "1.0", built.filename)).body for node in trio}
    [document] = seen
    [bundle] = json.loads(document)["attestation_bundles"]
    assert bundle["attestations"] == [ATTESTATION]
    answer = trio[through].get(_provenance(name, "1.0", built.filename))
    assert answer.headers["content-type"] == "application/vnd.pypi.integrity.v1+json"
    html = trio[through].get(_provenance(name, "1.0", built.filename), accept="text/html")
    assert html.status == 406, html
    assert upload(trio[through], "root/dev", other).status == 200
    assert trio[through].get(_provenance(name, "2.0", other.filename)).status == 404
    odd = legacy_form(wheel(name, "3.0"), attestations='[{"version": 7}]')
    assert _post(trio[through], "/root/dev/", odd, KEY).status == 400


def _provenance(project: str, version: str, filename: str) -> str:
    return f"/root/dev/+integrity/{project}/{version}/{filename}/provenance"


@pytest.mark.parametrize("through", [0, 1], ids=["primary", "replica"])
def test_twine_shows_why(trio: Nodes, through: int, tmp_path: Path) -> None:
    """twine, which prints the status line alone, tells its user what is wrong."""
    name = f"why-{through}"
    assert upload(trio[through], "root/dev", wheel(name, "1.0")).status == 200
    url, other = f"{trio[through].url}/root/dev/", wheel(name, "1.0", size=9)
    with pytest.raises(AssertionError, match="already exists in non-volatile index"):
        twine_upload(url, other, folder=tmp_path, user="root", password=ROOT_PASSWORD)


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
    message = answer.json()["message"]
    if form[0].startswith("multipart"):  # of uploads, twine prints the reason alone
        assert answer.reason[:40] == message[:40]
    assert trio[0].status()["serial"] == serial
    assert trio[0].page("root/dev", "bad").status == 404
    no_temporary_files(*trio)


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
    no_temporary_files(node)


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
    no_temporary_files(*trio)


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
