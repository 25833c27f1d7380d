"""Pushing to a server elsewhere: the forms that are sent, and what becomes of trouble there."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from attrs import define, evolve, field
from multipart import MultipartParser, parse_options_header
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers

from cluster.auth.acl import Principal, require_external_push
from cluster.auth.tokens import TokenLimits
from cluster.errors import AuthenticationRequired, Forbidden, NotFound
from cluster.files.store import FileStore
from cluster.model import DistributionFile, HostedIndex, MirrorIndex
from cluster.names import IndexName, NormalizedName
from cluster.state.contents import HeldDocs, HeldFile
from cluster.threads import Inline
from primary.devpi.pushexternal import Destination, ExternalPush, is_done
from primary.devpi.pushform import Attachment, FormBody, digests_of
from primary.devpi.pushrules import Action, Release
from tests.builders import sdist, wheel
from tests.fakes import Gate, as_clock

THERE = Destination("https://there.example/up/", "ann", "pass:word")
DEV = IndexName("ann/dev")
WHEEL, SDIST, DOCS = wheel("Demo", "1.0"), sdist("Demo", "1.0"), b"a zip"


@define
class Sink:
    """Takes a body; `on_write` is called for each piece."""

    data: bytearray = field(factory=bytearray)
    on_write: Callable[[], object] = lambda: None

    def write(self, data: bytes) -> None:
        self.data += data
        self.on_write()


@define
class FakeResponse:
    """An answer with a short body."""

    code: int
    text: bytes = b""
    phrase: bytes = b""
    headers: Headers = field(factory=Headers)
    length: int = 0

    def deliverBody(self, protocol: Any) -> None:
        protocol.makeConnection(cast(Any, self))
        protocol.dataReceived(self.text)
        protocol.connectionLost(Failure(ResponseDone()))

    def loseConnection(self) -> None:
        pass

    pauseProducing = resumeProducing = loseConnection


@define
class Elsewhere:
    """A server that reads forms and answers what it is told, in order; the rest with 200.

    An answer may be an error of the connection, or None for a server that never answers.
    """

    answers: list[FakeResponse | Exception | None] = field(factory=list)
    forms: list[dict[str, list[str]]] = field(factory=list)
    contents: list[tuple[str, bytes]] = field(factory=list)
    headers: list[Headers] = field(factory=list)

    def request(self, method: bytes, uri: bytes, headers: Headers, body: Any) -> Deferred[Any]:
        assert (method, uri) == (b"POST", THERE.url.encode())
        self.headers.append(headers)
        return Deferred.fromCoroutine(self._answer(headers, body))

    async def _answer(self, headers: Headers, body: Any) -> FakeResponse:
        sink = Sink()
        await body.startProducing(sink)
        assert len(sink.data) == body.length
        self._keep((headers.getRawHeaders("Content-Type") or [""])[0], bytes(sink.data))
        answer = self.answers.pop(0) if self.answers else FakeResponse(200)
        if answer is None:
            await Deferred[None]()
        if isinstance(answer, Exception):
            raise answer
        return cast(FakeResponse, answer)

    def _keep(self, content_type: str, data: bytes) -> None:
        boundary = parse_options_header(content_type)[1]["boundary"]
        form: dict[str, list[str]] = {}
        for part in MultipartParser(BytesIO(data), boundary, content_length=len(data)):
            if part.filename:
                self.contents.append((part.filename, part.raw))
            else:
                form.setdefault(part.name, []).append(part.value)
        self.forms.append(form)


@define
class Pusher:
    """An external push to a fake server, with its files in a real store."""

    there: Elsewhere
    clock: Clock
    push: ExternalPush
    release: Release

    async def send(self, **more: Any) -> list[Action]:
        """The action log of pushing all of it."""
        return await self.push.send(self.release, THERE, **{"register": False, **more})


def held(data: bytes, filename: str) -> HeldFile:
    hashes = {"sha256": hashlib.sha256(data).hexdigest()}
    return HeldFile(DistributionFile(filename, version="1.0", hashes=hashes, size=len(data)), [])


@pytest.fixture
def pusher(tmp_path: Path) -> Pusher:
    store, there, clock = FileStore(tmp_path, Inline()), Elsewhere(), Clock()

    async def fill() -> None:
        await store.open()
        for data in (WHEEL.data, SDIST.data, DOCS):
            await store.add_bytes(data)

    pytest_twisted.blockon(Deferred.fromCoroutine(fill()))
    push = ExternalPush(cast(Any, there), as_clock(clock), store, Inline())
    metadata = {
        "name": "Demo", "version": "1.0", "metadata_version": "2.4", "summary": "Grün",
        "requires_dist": ["a", "b>1"], "provides_extras": ["x"], "keywords": "", "platform": [],
    }  # fmt: skip
    digest = hashlib.sha256(DOCS).hexdigest()
    release = Release(
        DEV, NormalizedName("demo"), "1.0", metadata,
        (held(WHEEL.data, WHEEL.filename), held(SDIST.data, SDIST.filename)),
        HeldDocs("1.0", "demo-1.0.doc.zip", digest, len(DOCS), []),
    )  # fmt: skip
    return Pusher(there, clock, push, release)


@pytest_twisted.ensureDeferred
async def test_uploads(pusher: Pusher) -> None:
    """Each file is sent with the fields that twine sends, then the docs; all is accounted for."""
    pusher.there.answers = [FakeResponse(200, b"thanks\n")]
    actions = await pusher.send(register=True)
    path = f"{DEV}/+f/{WHEEL.sha256[:3]}/{WHEEL.sha256[3:16]}/{WHEEL.filename}"
    assert actions[:2] == [[200, "register", "Demo", "1.0"], [200, "upload", path, ""]]
    assert [action[1] for action in actions] == ["register", "upload", "upload", "docfile"]
    assert actions[3] == [200, "docfile", "Demo"]
    submit, whl, tgz, docs = pusher.there.forms
    assert [form[":action"] for form in (submit, whl, tgz, docs)] == [
        ["submit"], ["file_upload"], ["file_upload"], ["doc_upload"],
    ]  # fmt: skip
    assert (whl["filetype"], whl["pyversion"]) == (["bdist_wheel"], ["py3"])
    assert (tgz["filetype"], tgz["pyversion"]) == (["sdist"], ["source"])
    assert whl["sha256_digest"] == [WHEEL.sha256]
    assert whl["md5_digest"] == [hashlib.md5(WHEEL.data, usedforsecurity=False).hexdigest()]
    assert whl["blake2_256_digest"] == [hashlib.blake2b(WHEEL.data, digest_size=32).hexdigest()]
    assert whl["requires_dist"] == ["a", "b>1"]
    assert (whl["summary"], whl["provides_extra"]) == (["Grün"], ["x"])
    assert "keywords" not in whl
    assert (docs["name"], docs["version"]) == (["Demo"], ["1.0"])
    assert pusher.there.contents == [
        (WHEEL.filename, WHEEL.data), (SDIST.filename, SDIST.data), ("Demo.zip", DOCS),
    ]  # fmt: skip
    for headers in pusher.there.headers:
        (sent,) = headers.getRawHeaders("Authorization") or []
        assert base64.b64decode(sent.removeprefix("Basic ")) == b"ann:pass:word"


@pytest.mark.parametrize("status", [301, 307, 400, 409, 500])
@pytest_twisted.ensureDeferred
async def test_one_refusal(pusher: Pusher, status: int) -> None:
    """A file that is refused does not keep the others back; redirects are refusals."""
    pusher.there.answers = [FakeResponse(status, b"is there")]
    actions = await pusher.send()
    assert [action[0] for action in actions] == [status, 200, 200]
    assert actions[0][3] == "is there"
    assert [is_done(action) for action in actions] == [False, True, True]


@pytest.mark.parametrize("status", [401, 403])
@pytest_twisted.ensureDeferred
async def test_wrong_password(pusher: Pusher, status: int) -> None:
    """After a refused login nothing more is sent; the reason may stand in the status line."""
    pusher.there.answers = [FakeResponse(status, b"", b"Not you")]
    (action,) = await pusher.send()
    assert (action[0], action[3]) == (status, "Not you")
    assert len(pusher.there.forms) == 1


@pytest_twisted.ensureDeferred
async def test_broken_connection(pusher: Pusher) -> None:
    """What went before stays in the account; the failure says where, and no password."""
    pusher.there.answers = [FakeResponse(200), Refused()]
    done, failed = await pusher.send()
    assert done[0] == 200
    assert failed[:2] == [-1, "exception on release upload:"]
    assert "there.example" in failed[2]
    assert "pass:word" not in str(failed)
    assert not is_done(failed)


@pytest_twisted.ensureDeferred
async def test_no_answer(pusher: Pusher) -> None:
    """A server that takes all and never answers is given up after a while."""
    pusher.there.answers = [None]
    work = Deferred.fromCoroutine(pusher.send())
    pusher.clock.advance(170.0)
    assert not work.called
    pusher.clock.advance(20.0)
    (failed,) = await work
    assert failed[2] == "there.example: no whole answer in time"


@pytest_twisted.ensureDeferred
async def test_long_answer(pusher: Pusher) -> None:
    """An answer of megabytes is not taken into memory, nor into ours."""
    pusher.there.answers = [FakeResponse(200, b"x" * (1 << 20)), FakeResponse(200, b"y" * 9_000)]
    actions = await pusher.send()
    assert (actions[0][3], len(actions[1][3])) == ("(a long answer)", 2_000)


@pytest_twisted.ensureDeferred
async def test_client_gone(pusher: Pusher) -> None:
    """Once nobody waits for the answer, the file under way is the last."""
    actions = await pusher.send(is_gone=lambda: len(pusher.there.forms) >= 1)
    assert [action[1] for action in actions] == ["upload"]


@pytest_twisted.ensureDeferred
async def test_lost_file(pusher: Pusher) -> None:
    """A file that is recorded and not in the store is reported; nothing is sent of it."""
    lost = evolve(pusher.release, files=(held(b"lost", "demo-1.0.zip"),), docs=None)
    (action,) = await pusher.push.send(lost, THERE, register=False)
    assert action == [-1, "exception on release upload:", "demo-1.0.zip is not here"]


def test_gone_register() -> None:
    """The public index's 410 for "register" is no failure, for anything else it is one."""
    assert is_done([410, "register", "demo", "1.0"])
    assert not is_done([410, "upload", "x", ""])


def _attachment(folder: Path, data: bytes) -> Attachment:
    path = folder / "file"
    path.write_bytes(data)
    return Attachment(path, "file.zip", len(data))


def test_pausing(tmp_path: Path) -> None:
    """A connection that is full gets nothing more until it has room; pieces stay small."""
    gate, pieces = Gate(), []
    attachment = _attachment(tmp_path, b"x" * 1_000_000)
    body = FormBody([("name", "demo")], attachment, cast(Any, gate))

    def full() -> None:
        pieces.append(len(sink.data))
        body.pauseProducing()

    sink = Sink(on_write=full)
    done = body.startProducing(sink)
    while not done.called:
        before = len(pieces)
        gate.open_all()
        assert len(pieces) <= before + 1
        body.resumeProducing()
    assert len(sink.data) == body.length
    assert max(b - a for a, b in itertools.pairwise(pieces)) <= 256 << 10


def test_broken_off(tmp_path: Path) -> None:
    """When the connection goes, reading ends, and the Deferred stays silent as Twisted wants."""
    gate = Gate()
    body = FormBody([], _attachment(tmp_path, b"x" * 1_000_000), cast(Any, gate))
    sink = Sink()
    done = body.startProducing(sink)
    gate.open()
    gate.open()
    body.stopProducing()
    gate.open_all()
    assert not done.called
    assert len(sink.data) < 600_000


def test_digests(tmp_path: Path) -> None:
    """A file of many pieces has the digests of its whole."""
    data = bytes(range(256)) * 4_000
    path = tmp_path / "file"
    path.write_bytes(data)
    assert digests_of(path)["sha256_digest"] == hashlib.sha256(data).hexdigest()


HOSTED = HostedIndex(DEV, acl_upload=("bob", ":ANONYMOUS:"))
CLOSED = HostedIndex(DEV, acl_upload=("bob",), acl_pkg_read=("bob", "eve"))
MIRROR = MirrorIndex(IndexName("ann/up"))
UPLOADS = TokenLimits(frozenset({"upload"}), (), ())


@pytest.mark.parametrize(
    ("who", "index", "error"),
    [
        (Principal(), HOSTED, AuthenticationRequired),
        (Principal("eve"), CLOSED, Forbidden),
        (Principal("bob"), CLOSED, None),
        (Principal("ann"), CLOSED, None),
        (Principal("root"), CLOSED, None),
        (Principal("joe"), CLOSED, NotFound),
        (Principal("bob", UPLOADS), HOSTED, None),
        (Principal("bob", UPLOADS), CLOSED, NotFound),
        (Principal("ann", UPLOADS), evolve(HOSTED, acl_upload=("bob",)), Forbidden),
        (Principal("bob"), MIRROR, Forbidden),
        (Principal("ann"), MIRROR, None),
        (Principal("root"), MIRROR, None),
    ],
)
def test_who_may(
    who: Principal, index: HostedIndex | MirrorIndex, error: type[Exception] | None
) -> None:
    """Only who is known, may read the files, and may upload there, owns it or is root: the
    primary sends requests to wherever it is told."""
    if error is None:
        require_external_push(who, index, "demo")
        return
    with pytest.raises(error):
        require_external_push(who, index, "demo")
