"""Upload triggers: who is told what, in which order, how often, and what is never said."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import random
import runpy
import subprocess
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from attrs import define, field, frozen
from multipart import MultipartParser
from sqlalchemy import Engine
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers

from cluster.clock import Delayed
from cluster.durable import SecretBlobs
from cluster.log.changes import Change, Kind
from cluster.state.database import Database, open_engine
from cluster.state.position import Position
from cluster.threads import Inline
from primary.triggers import outbox
from primary.triggers.lane import MAX_DELAY_SECONDS, delay_seconds
from primary.triggers.progress import GIVE_UP_SECONDS
from primary.triggers.sender import Sender, node_url
from primary.triggers.service import Triggers
from primary.triggers.tables import metadata
from primary.writer import Writer
from tests.fakes import NOW, as_clock, database, position, user_set, writer

BASE = "http://packages.example"
HOOK = "http://hook.example/in?token=in-query"
JOB = "http://ci.example/job/{pkgname}/build?v={pkgversion}"
SECRET = "the webhook secret"
Answer = int | tuple[int, str] | None


class _Response:
    length = 0

    def __init__(self, code: int, location: str | None) -> None:
        self.code, self.headers = code, Headers()
        if location:
            self.headers.setRawHeaders("Location", [location])

    def deliverBody(self, protocol: Any) -> None:
        protocol.connectionLost(Failure(ResponseDone()))


@frozen
class Request:
    """One delivery, as the receiver had it."""

    at: float
    url: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@define
class Receivers:
    """All servers there are: each host answers as `script` says (None: never); 200 otherwise."""

    clock: Clock
    script: dict[str, Callable[[], Answer]] = field(factory=dict)
    requests: list[Request] = field(factory=list)

    def request(self, method: bytes, uri: bytes, headers: Any = None, body: Any = None) -> Any:
        assert method == b"POST"
        sent = bytearray()
        body.startProducing(_Consumer(sent))
        assert body.length == len(sent)
        names = {k.decode().lower(): v[0].decode() for k, v in headers.getAllRawHeaders()}
        url = uri.decode("ascii")
        self.requests.append(Request(self.clock.seconds(), url, names, bytes(sent)))
        answer = self.script.get(url.split("/")[2], lambda: 200)()
        done: Deferred[Any] = Deferred()
        if answer is not None:
            code, location = (answer, None) if isinstance(answer, int) else answer
            done.callback(_Response(code, location))
        return done

    def say(self, host: str, *answers: Answer) -> None:
        """Give these answers, the last for ever."""
        left = list(answers)
        self.script[host] = lambda: left.pop(0) if len(left) > 1 else left[0]

    def files(self, host: str = "hook.example") -> list[str]:
        """The file names that a webhook was told, in order."""
        return [r.json()["filename"] for r in self.requests if r.url.split("/")[2] == host]


@define
class _Consumer:
    data: bytearray

    def write(self, data: bytes) -> None:
        self.data += data


@define
class Site:
    """A primary's log, its local database, and triggers that tell fake receivers."""

    folder: Path
    database: Database
    local: Engine
    position: Position
    writer: Writer
    clock: Clock
    receivers: Receivers
    triggers: Triggers = field(init=False)

    def start(self) -> None:
        """Start triggers; those of before are as if killed."""
        sender = Sender(
            self.receivers, as_clock(self.clock), self.blobs, Inline(), lambda: BASE
        )  # fmt: skip
        local = Database(self.local, Inline(), Inline())
        self.triggers = Triggers(
            self.database, local, self.position, sender, as_clock(self.clock),
            lambda: NOW + self.clock.seconds(), random.Random(1),
        )  # fmt: skip
        self.triggers.start()

    def kill(self) -> None:
        """Nothing more happens to what runs: not even the answers it waits for."""
        self.position._listeners.clear()
        for call in self.clock.getDelayedCalls():
            cast(Delayed, call).cancel()

    def stop(self) -> None:
        done = Deferred.fromCoroutine(self.triggers.stop())
        assert done.called

    @property
    def blobs(self) -> SecretBlobs:
        return SecretBlobs(self.folder / "secrets")

    def write(self, *changes: Change) -> int:
        done = Deferred.fromCoroutine(self.writer.write("ann", lambda c: changes))
        result: list[Any] = []
        done.addBoth(result.append)
        return int(result[0].serial)

    def index(self, name: str = "root/dev", secrets: Any = None, **options: Any) -> int:
        payload: dict[str, Any] = {"index": name, "type": "stage", "options": options}
        if secrets is not None:
            payload["secrets"] = self.blobs.add(json.dumps(secrets).encode())
        return self.write(Change(Kind.INDEX_SET, payload))

    def upload(self, name: str, index: str = "root/dev", **more: Any) -> int:
        return self.write(file_added(name, index, **more))

    def shown(self, kind: str = "webhook", index: str = "root/dev") -> dict[str, Any]:
        [one] = [
            entry
            for entry in self.triggers.document()
            if (entry["kind"], entry["index"]) == (kind, index)
        ]
        return one


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def file_added(name: str, index: str = "root/dev", **more: Any) -> Change:
    project, version = name.removesuffix(".tar.gz").rsplit("-", 1)
    file = {"filename": name, "version": version, "hashes": {"sha256": digest(name)}, "size": 1}
    payload = {"index": index, "project": project, "name": project, "file": file, "log": []}
    return Change(Kind.FILE_ADDED, {**payload, **more})


@contextmanager
def local_engine() -> Iterator[Engine]:
    made = open_engine(Path(":memory:"), metadata, durable=False)
    try:
        yield made
    finally:
        made.dispose()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    clock = Clock()
    at = position(as_clock(clock))
    with database() as of, local_engine() as local:
        made = Site(tmp_path, of, local, at, writer(of, at), clock, Receivers(clock))
        made.start()
        yield made
        made.stop()
        assert clock.getDelayedCalls() == []


def test_webhook(site: Site) -> None:
    """A webhook carries the event as JSON, signed over its body, with the index's credentials."""
    site.index(
        webhook_url=HOOK, secrets={"webhook_secret": SECRET, "webhook_credentials": "ci:pass"}
    )
    serial = site.upload("pkg-1.0.tar.gz")
    [request] = site.receivers.requests
    sha256 = digest("pkg-1.0.tar.gz")
    assert request.url == HOOK
    assert request.json() == {
        "event": "file.added", "index": "root/dev", "project": "pkg", "version": "1.0",
        "filename": "pkg-1.0.tar.gz", "sha256": sha256, "serial": serial,
        "time": "2023-11-14T22:13:20.000000Z", "actor": "ann",
        "url": f"{BASE}/root/dev/+f/{sha256[:3]}/{sha256[3:16]}/pkg-1.0.tar.gz",
    }  # fmt: skip
    signature = hmac.new(SECRET.encode(), request.body, "sha256").hexdigest()
    assert request.headers["x-pymirror-signature"] == f"sha256={signature}"
    assert request.headers["x-pymirror-event"] == "file.added"
    assert request.headers["x-pymirror-delivery"] == f"{serial}-0"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == f"Basic {base64.b64encode(b'ci:pass').decode()}"


def test_unsigned_without_secret(site: Site) -> None:
    """An index without secrets sends neither a signature nor credentials."""
    site.index(webhook_url=HOOK)
    site.upload("pkg-1.0.tar.gz")
    [request] = site.receivers.requests
    assert not {"x-pymirror-signature", "authorization"} & request.headers.keys()


def test_never_unsigned_by_accident(site: Site) -> None:
    """An index whose secrets are not here is not told without them, but when they are back."""
    site.index(webhook_url=HOOK, secrets={"webhook_secret": SECRET})
    [blob] = (site.folder / "secrets").iterdir()
    data = blob.read_bytes()
    blob.unlink()
    site.upload("pkg-1.0.tar.gz")
    assert site.receivers.requests == []
    assert site.shown()["last_error"] == "the index's secrets are missing on this node"
    blob.write_bytes(data)
    site.clock.advance(1)
    assert len(site.receivers.requests) == 1


def test_new_target_begins_where_it_was_set(site: Site) -> None:
    """What was uploaded before an index had the option is not told; what comes after is."""
    site.index()
    site.upload("pkg-1.0.tar.gz")
    serial = site.index(webhook_url=HOOK)
    assert site.shown()["position"] == serial
    site.upload("pkg-1.1.tar.gz")
    site.upload("other-1.0.tar.gz", "root/other")
    assert site.receivers.files() == ["pkg-1.1.tar.gz"]


def test_new_target_of_a_killed_primary(site: Site) -> None:
    """An option and a file that are committed just before a kill are both seen after it, and
    nothing that was before the option."""
    site.index()
    site.upload("pkg-1.0.tar.gz")
    site.kill()
    site.index(webhook_url=HOOK)
    site.upload("pkg-1.1.tar.gz")
    site.index(webhook_url=HOOK, title="changed")
    site.start()
    assert site.receivers.files() == ["pkg-1.1.tar.gz"]


def test_lost_positions(site: Site) -> None:
    """A node that lost its positions begins at the head, with the targets that there are."""
    site.index(webhook_url=HOOK)
    site.upload("pkg-1.0.tar.gz")
    site.kill()
    with local_engine() as fresh:
        site.local = fresh
        site.start()
        assert len(site.receivers.requests) == 1
        site.upload("pkg-1.1.tar.gz")
        assert site.receivers.files() == ["pkg-1.0.tar.gz", "pkg-1.1.tar.gz"]


def test_back_off_in_order(site: Site) -> None:
    """A failing receiver is tried after longer and longer waits with the same event, and later
    events wait for it; then all come in order."""
    site.index(webhook_url=HOOK)
    site.receivers.say("hook.example", 500, 503, 404, 410, 301, 200)
    serial = site.upload("a-1.0.tar.gz")
    site.upload("b-1.0.tar.gz")
    shown = site.shown()
    assert (shown["pending"], shown["last_error"]) == (2, "http://hook.example/in answered 500")
    assert shown["failing_since"] == "2023-11-14T22:13:20Z"
    assert shown["next_try"]
    for _ in range(400):
        site.clock.advance(0.1)
    assert site.receivers.files() == ["a-1.0.tar.gz"] * 6 + ["b-1.0.tar.gz"]
    assert {r.headers["x-pymirror-delivery"] for r in site.receivers.requests[:6]} == {
        f"{serial}-0"
    }
    times = [request.at for request in site.receivers.requests[:6]]
    waits = [later - earlier for earlier, later in pairwise(times)]
    for wait, longest in zip(waits, [1, 2, 4, 8, 16], strict=True):
        assert longest / 2 <= wait <= longest + 0.1
    shown = site.shown()
    assert (shown["pending"], shown["failing_since"], shown["next_try"]) == (0, None, None)
    assert shown["last_success"]


def test_delay_is_capped() -> None:
    """However often it failed, the next try is at most five minutes away."""
    chance = random.Random(3)
    assert all(
        MAX_DELAY_SECONDS / 2 <= delay_seconds(n, chance) <= MAX_DELAY_SECONDS == 300
        for n in (10, 100, 10_000)
    )


def test_targets_do_not_delay_each_other(site: Site) -> None:
    """A receiver that never answers, and one that fails, delay neither uploads nor others."""
    site.index("root/a", webhook_url="http://silent.example/")
    site.index("root/b", webhook_url="http://broken.example/")
    site.index("root/c", webhook_url=HOOK)
    site.receivers.say("silent.example", None)
    site.receivers.say("broken.example", 500)
    for name in ("x-1.tar.gz", "x-2.tar.gz"):
        for index in ("root/a", "root/b", "root/c"):
            assert site.upload(name, index) == site.position.serial
    assert site.receivers.files() == ["x-1.tar.gz", "x-2.tar.gz"]
    assert site.receivers.files("silent.example") == ["x-1.tar.gz"]
    assert site.receivers.files("broken.example") == ["x-1.tar.gz"]


def test_silent_receiver(site: Site) -> None:
    """An answer that does not come in 30 seconds is a failure, and tried again."""
    site.index(webhook_url=HOOK)
    site.receivers.say("hook.example", None, 200)
    site.upload("pkg-1.0.tar.gz")
    site.clock.advance(29)
    assert site.shown()["last_error"] is None
    site.clock.advance(1)
    assert site.shown()["last_error"] == "no answer: CancelledError"
    site.clock.advance(1)
    assert site.shown()["pending"] == 0


def test_killed_before_it_knew(site: Site) -> None:
    """Whoever is killed between telling and forgetting tells again, under the same id; what
    was told and forgotten before is not told again."""
    site.index(webhook_url=HOOK)
    site.upload("pkg-1.0.tar.gz")
    site.receivers.say("hook.example", None, 200)
    site.upload("pkg-1.1.tar.gz")
    site.upload("pkg-1.2.tar.gz")
    site.kill()
    site.start()
    assert site.receivers.files() == [
        "pkg-1.0.tar.gz", "pkg-1.1.tar.gz", "pkg-1.1.tar.gz", "pkg-1.2.tar.gz",
    ]  # fmt: skip
    first, second = site.receivers.requests[1:3]
    assert first.headers["x-pymirror-delivery"] == second.headers["x-pymirror-delivery"]


def test_gives_up_after_a_day(site: Site) -> None:
    """An event that nobody takes for a day is dropped and counted; younger ones are not."""
    site.index(webhook_url=HOOK)
    site.receivers.say("hook.example", 500)
    site.upload("old-1.0.tar.gz")
    site.clock.advance(3_600)
    site.upload("young-1.0.tar.gz")
    while not site.shown()["dropped"]:
        assert site.clock.seconds() <= GIVE_UP_SECONDS + 2 * MAX_DELAY_SECONDS
        site.clock.advance(60)
    assert site.clock.seconds() >= GIVE_UP_SECONDS
    assert (site.shown()["pending"], site.shown()["dropped"]) == (1, 1)
    site.receivers.requests.clear()
    site.receivers.say("hook.example", 200)
    site.clock.advance(MAX_DELAY_SECONDS)
    assert site.receivers.files() == ["young-1.0.tar.gz"]


def test_a_day_off_is_not_a_failure(site: Site) -> None:
    """What waited longer than a day because the primary was down is tried, and told."""
    site.index(webhook_url=HOOK)
    site.receivers.say("hook.example", None)
    site.upload("pkg-1.0.tar.gz")
    site.kill()
    site.clock.advance(2 * GIVE_UP_SECONDS)
    site.receivers.say("hook.example", 500, 200)
    site.start()
    assert site.shown()["dropped"] == 0
    site.clock.advance(1)
    assert (site.shown()["pending"], site.shown()["dropped"]) == (0, 0)


def test_changed_target(site: Site) -> None:
    """Setting the option anew ends the wait, and what is pending goes to the new receiver."""
    site.index(webhook_url=HOOK)
    site.receivers.say("hook.example", 500)
    site.upload("pkg-1.0.tar.gz")
    site.index(webhook_url="http://new.example/")
    assert site.receivers.files("new.example") == ["pkg-1.0.tar.gz"]
    assert len(site.receivers.files()) == 1


def test_changed_target_that_fails_again(site: Site) -> None:
    """After a change, the waits begin with the short ones again."""
    site.index(webhook_url=HOOK)
    site.receivers.say("hook.example", 500)
    site.upload("pkg-1.0.tar.gz")
    for _ in range(100):
        site.clock.advance(10)
    site.index(webhook_url=HOOK + "&changed")
    before = len(site.receivers.requests)
    site.clock.advance(1)
    assert len(site.receivers.requests) == before + 1


def test_uploads_do_not_shorten_waits(site: Site) -> None:
    """An upload that comes while a delivery is under way or waits for its next try does not
    hurry the receiver."""
    site.index(webhook_url=HOOK)
    site.receivers.say("hook.example", None, 500)
    site.upload("pkg-1.0.tar.gz")
    site.upload("pkg-1.1.tar.gz")
    site.clock.advance(30)
    site.upload("pkg-1.2.tar.gz")
    site.clock.advance(0.4)
    assert len(site.receivers.requests) == 1
    site.clock.advance(0.6)
    assert len(site.receivers.requests) == 2


def test_restored_log(site: Site) -> None:
    """A log that is shorter than it was is followed from its head; what was queued of entries
    that are gone is forgotten."""
    site.index(webhook_url=HOOK)
    site.receivers.say("hook.example", 500, 200)
    site.upload("gone-1.0.tar.gz")
    site.upload("gone-1.1.tar.gz")
    site.kill()
    with database() as older:
        site.database, site.position = older, position(as_clock(site.clock))
        site.writer = writer(older, site.position)
        site.index(webhook_url=HOOK)
        site.start()
        site.upload("pkg-1.0.tar.gz")
        assert site.receivers.files() == ["gone-1.0.tar.gz", "pkg-1.0.tar.gz"]


@pytest.mark.parametrize("how", ["option", "index", "type"])
def test_removed_target(site: Site, how: str) -> None:
    """A target that is not named any more is told nothing more, pending or new."""
    site.index(webhook_url=HOOK)
    site.receivers.say("hook.example", 500, 200)
    site.upload("pkg-1.0.tar.gz")
    if how == "option":
        site.index()
    elif how == "index":
        site.write(Change(Kind.INDEX_REMOVED, {"index": "root/dev"}))
    else:
        options = {"mirror_url": "http://up.example/", "webhook_url": HOOK}
        payload = {"index": "root/dev", "type": "mirror", "options": options}
        site.write(Change(Kind.INDEX_SET, payload))
    site.upload("pkg-1.1.tar.gz")
    site.clock.advance(600)
    assert len(site.receivers.requests) == 1
    assert site.triggers.document() == []


def test_stage(site: Site) -> None:
    """What is staged is told when it is published, in order, under one serial; what is dropped
    is not told; a kill in between changes nothing."""
    site.upload("a-1.tar.gz", stage="one")
    site.index(webhook_url=HOOK)
    site.upload("b-1.tar.gz", stage="one")
    site.upload("c-1.tar.gz", stage="two")
    assert site.receivers.requests == []
    site.kill()
    site.start()
    serial = site.write(
        Change(Kind.STAGE_DROPPED, {"index": "root/dev", "stage": "two"}),
        Change(Kind.STAGE_PUBLISHED, {"index": "root/dev", "stage": "one"}),
    )
    assert site.receivers.files() == ["a-1.tar.gz", "b-1.tar.gz"]
    ids = [request.headers["x-pymirror-delivery"] for request in site.receivers.requests]
    assert ids == [f"{serial}-0", f"{serial}-1"]
    assert {request.json()["serial"] for request in site.receivers.requests} == {serial}


def test_docs(site: Site) -> None:
    """Documentation is told to a webhook, and not to Jenkins, which could not test it."""
    site.index(webhook_url=HOOK, uploadtrigger_jenkins=JOB)
    docs = {"filename": "pkg-1.0.doc.zip", "sha256": "ab" * 32, "size": 3}
    payload = {"index": "root/dev", "project": "pkg", "name": "pkg", "version": "1.0"}
    site.write(Change(Kind.DOCS_SET, {**payload, "docs": docs, "log": []}))
    [request] = site.receivers.requests
    said = request.json()
    assert (said["event"], said["filename"], said["version"]) == (
        "docs.set", "pkg-1.0.doc.zip", "1.0",
    )  # fmt: skip


def test_texts_that_look_like_kinds(site: Site) -> None:
    """What users write into their own options is not mistaken for an upload."""
    site.index(webhook_url=HOOK)
    site.write(user_set("eve", custom_data={"kind": "file.added"}))
    site.upload("pkg-1.0.tar.gz")
    assert site.receivers.files() == ["pkg-1.0.tar.gz"]


def test_long_logs(site: Site) -> None:
    """Thousands of entries with nothing to tell are passed, and not read again after a kill."""
    site.index(webhook_url=HOOK)
    site.write(*[user_set(f"u{n}") for n in range(2_500)])
    with site.local.begin() as connection:
        assert (outbox.position(connection) or 0) > 2_000
    site.upload("pkg-1.0.tar.gz")
    assert site.receivers.files() == ["pkg-1.0.tar.gz"]


def jenkins_form(request: Request) -> dict[str, Any]:
    boundary = request.headers["content-type"].partition("boundary=")[2]
    return {part.name: part for part in MultipartParser(io.BytesIO(request.body), boundary)}


def test_jenkins(site: Site) -> None:
    """Jenkins gets its own build form with the script as file parameter, as devpi's plugin
    sends it, at the URL of the project's job."""
    site.index(uploadtrigger_jenkins=JOB, secrets={"trigger_credentials": "ci:token"})
    site.upload("pkg-1.0+local.tar.gz")
    [request] = site.receivers.requests
    assert request.url == "http://ci.example/job/pkg/build?v=1.0%2Blocal"
    assert request.headers["authorization"] == f"Basic {base64.b64encode(b'ci:token').decode()}"
    form = jenkins_form(request)
    assert form["Submit"].value == "Build"
    assert form["name"].value == "jobscript.py"
    assert json.loads(form["json"].value) == {
        "parameter": {"name": "jobscript.py", "file": "file0"}
    }
    assert form["file0"].filename == "jobscript.py"
    assert "token" not in form["file0"].value


def test_job_script(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script installs the client from the index, tests what was uploaded, and ends as the
    test did."""
    site.index(uploadtrigger_jenkins=JOB)
    site.upload("pkg-1.0.tar.gz")
    script = tmp_path / "jobscript.py"
    script.write_text(jenkins_form(site.receivers.requests[0])["file0"].value)
    commands: list[list[str]] = []

    def run(command: list[str]) -> int:
        commands.append(command)
        return 3 if "test" in command else 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/bin")
    monkeypatch.setattr(subprocess, "check_call", run)
    monkeypatch.setattr(subprocess, "call", run)
    monkeypatch.setattr(venv, "create", lambda folder, with_pip: None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 3
    install, use, check = commands
    assert install[4:] == [
        "--upgrade", "--index-url", f"{BASE}/root/dev/+simple/",
        "--trusted-host", "packages.example", "devpi-client", "tox",
    ]  # fmt: skip
    client = ["--clientdir", str(tmp_path / ".devpiclient")]
    devpi = str(tmp_path / "_devpi" / "bin" / "devpi")
    assert use == [devpi, "use", *client, f"{BASE}/root/dev"]
    assert check == [devpi, "test", *client, "pkg==1.0"]


def test_no_such_job(site: Site) -> None:
    """A project without a job does not hold up those that have one."""
    site.index(uploadtrigger_jenkins=JOB)
    site.receivers.say("ci.example", 404, 201)
    site.upload("nojob-1.0.tar.gz")
    site.upload("pkg-1.0.tar.gz")
    assert [r.url.split("/")[4] for r in site.receivers.requests] == ["nojob", "pkg"]
    shown = site.shown("jenkins")
    assert (shown["pending"], shown["dropped"], shown["failing_since"]) == (0, 1, None)
    assert shown["last_error"].startswith("http://ci.example/job/nojob/build answered 404")


@pytest.mark.parametrize(
    ("location", "taken"),
    [
        (".", True),
        ("http://ci.example/job/pkg/", True),
        ("/login?from=/job/pkg/", False),
        ("http://other.example/job/pkg/", False),
    ],
)
def test_jenkins_redirects(site: Site, location: str, taken: bool) -> None:
    """Back to the job's page means that a build waits already; a login page means no."""
    site.index(uploadtrigger_jenkins=JOB)
    site.receivers.say("ci.example", (302, location))
    site.upload("pkg-1.0.tar.gz")
    assert len(site.receivers.requests) == 1  # nobody follows it
    assert site.shown("jenkins")["pending"] == (0 if taken else 1)


def test_two_targets_of_an_index(site: Site) -> None:
    """An index with both tells both, each at its own pace."""
    site.index(webhook_url=HOOK, uploadtrigger_jenkins=JOB)
    site.receivers.say("ci.example", 500)
    site.upload("pkg-1.0.tar.gz")
    site.upload("pkg-1.1.tar.gz")
    assert [(e["kind"], e["pending"]) for e in site.triggers.document()] == [
        ("jenkins", 2), ("webhook", 0),
    ]  # fmt: skip


def test_no_secrets_are_shown(site: Site) -> None:
    """Neither status nor log lines hold passwords, secrets or a URL's query."""
    lines: list[str] = []
    observer: Any = lambda event: lines.append(formatEvent(event))  # noqa: E731
    globalLogPublisher.addObserver(observer)
    try:
        secrets = {
            "webhook_secret": "s3cret-1", "webhook_credentials": "ci:s3cret-2",
            "trigger_credentials": "ci:s3cret-3",
        }  # fmt: skip
        site.index(
            webhook_url="http://hook.example/in?token=s3cret-4#s3cret-5",
            uploadtrigger_jenkins="http://ci.example/job/x/build?token=s3cret-6",
            secrets=secrets,
        )
        site.receivers.say("hook.example", 401, None, 200)
        site.receivers.say("ci.example", 404)
        site.upload("pkg-1.0.tar.gz")
        shown = json.dumps(site.triggers.document())
        site.clock.advance(1)
        site.clock.advance(30)
        shown += json.dumps(site.triggers.document())
    finally:
        globalLogPublisher.removeObserver(observer)
    assert '"http://hook.example/in"' in shown
    assert any("answered 401" in line for line in lines)
    assert any("answered 404" in line for line in lines)
    assert "s3cret" not in shown + "\n".join(lines)


def test_node_url() -> None:
    """Links name the outside URL, else this machine and the first TCP port."""
    assert node_url("https://packages.example", ["tcp:80"]) == "https://packages.example"
    assert node_url(None, ["unix:/x", "tcp:8080:interface=127.0.0.1"]) == "http://localhost:8080"
    assert node_url(None, ["tcp:port=81"]) == "http://localhost:81"
    assert node_url(None, ["systemd:domain=INET:index=0"]) == "http://localhost:3141"
