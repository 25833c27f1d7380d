"""Dumps of devpi-server are read as they are, and taken over whole, in order, more than once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from cluster.auth.passwords import LOCKED, from_devpi, hash_password, matches, needs_upgrade
from cluster.durable import SecretBlobs
from cluster.errors import Conflict, InvalidRequest, NotFound
from cluster.importing.dump import Dump, DumpedFile, DumpedIndex, DumpedUser, Thing
from cluster.importing.jsonstream import Cursor
from cluster.importing.options import bases_first, take_options
from cluster.importing.run import Import, name_of
from cluster.importing.tally import Tally, What
from cluster.importing.targets import DryRun, Outcome
from cluster.importing.upload import BrokenOff
from cluster.log import changelog
from cluster.log.changes import Change, Kind, encode
from cluster.model import DistributionFile, HostedIndex, MirrorIndex, User
from cluster.names import IndexName, NormalizedName
from cluster.state import contents, queries
from cluster.state.apply import apply
from cluster.state.database import writing
from cluster.state.options import to_options
from cluster.state.rows import Touched
from cluster.threads import Inline
from primary.acks import NotReplicated
from primary.bootstrap import index_set, root_pypi
from primary.devpi import importchanges as changes
from primary.devpi.importchanges import FIRST_START, Arrival
from primary.devpi.rehash import PasswordUpgrade
from tests.fakes import EPOCH, START, TIME, database, engine, writer

DEV, MIRROR = IndexName("joe/dev"), IndexName("joe/mirror")
DEMO = NormalizedName("demo")
DATA = b"the bytes of a file"
SHA256 = hashlib.sha256(DATA).hexdigest()
ARGON2 = hash_password("secret")

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=15,
)


def write_dump(folder: Path, **top: Any) -> Dump:
    """A dump whose index has these keys; `files` of its indexes are written too."""
    document = {"users": {}, "indexes": {}, "dumpversion": "2", "devpi_server": "6.20.3", **top}
    folder.mkdir(exist_ok=True)
    (folder / "dataindex.json").write_text(json.dumps(document))
    for index in document["indexes"].values():
        for file in index.get("files", ()):
            path = folder / file["relpath"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(DATA)
    return Dump(folder)


def described(relpath: str, **more: Any) -> dict[str, Any]:
    """A file in a dump of today's servers."""
    mapping = {"hashes": {"sha256": SHA256}, "last_modified": "Tue, 14 Nov 2023 22:13:20 GMT"}
    return {
        "type": "releasefile", "projectname": "demo", "version": "1.0", "relpath": relpath,
        "entrymapping": mapping, **more,
    }  # fmt: skip


def stage(*files: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """An index in a dump."""
    config = {"type": "stage", **more.pop("config", {})}
    return {"indexconfig": config, "projects": {}, "files": list(files), **more}


def files_of(dump: Dump) -> list[DumpedFile]:
    return [record for record in dump.records() if isinstance(record, DumpedFile)]


@given(document=st.dictionaries(st.text(max_size=3), VALUES, max_size=4))
@settings(deadline=None)
def test_reading_value_by_value(document: dict[str, Any]) -> None:
    """Taken piece by piece, a document has the values that it has as a whole."""
    cursor = Cursor(BytesIO(json.dumps(document).encode()))
    read: dict[str, Any] = {}
    for key in cursor.fields():
        value = document[key]
        read[key] = list(cursor.items()) if isinstance(value, list) else cursor.take()
    assert read == document


def test_reading_fractions() -> None:
    """Numbers that the log cannot hold are read as text, whole ones as integers."""
    cursor = Cursor(BytesIO(b'{"a": [1.5, 2.0, 1e3, {"b": -0.25}]}'))
    assert {key: cursor.take() for key in cursor.fields()} == {
        "a": ["1.5", 2, 1000, {"b": "-0.25"}]
    }


@pytest.mark.parametrize("text", ["", "{", '{"users": {', "[]", '{"users": {}} x', "nonsense"])
def test_what_is_no_dump(tmp_path: Path, text: str) -> None:
    """A cut or foreign file is refused, not read as an empty dump."""
    (tmp_path / "dataindex.json").write_text(text)
    with pytest.raises(InvalidRequest):
        Dump(tmp_path).survey()


def test_unknown_versions_of_dumps(tmp_path: Path) -> None:
    """What a later devpi-server may write is refused; so is a folder without a dump."""
    with pytest.raises(InvalidRequest, match="dump version '3'"):
        write_dump(tmp_path, dumpversion="3").survey()
    with pytest.raises(InvalidRequest, match="no dataindex"):
        Dump(tmp_path / "elsewhere").survey()


def test_dumps_of_version_1(tmp_path: Path) -> None:
    """Files without version or sha256, with md5 or hash_spec, are read by their names."""
    md5 = hashlib.md5(DATA, usedforsecurity=False).hexdigest()
    old: list[dict[str, Any]] = [
        {"type": "releasefile", "projectname": "demo", "relpath": "joe/dev/demo/demo-1.0.tar.gz",
         "entrymapping": {"md5": md5, "last_modified": "not a date"}},
        {"type": "doczip", "projectname": "demo", "relpath": "joe/dev/demo-2.0.doc.zip"},
        {"type": "toxresult", "projectname": "demo", "for_entrypath": "joe/dev/+f/a/demo-1.0.zip",
         "entrymapping": {"hash_spec": f"sha256={SHA256}"},
         "relpath": "joe/dev/demo/md5=ab/demo-1.0.zip.toxresult-20150101000000-0"},
    ]  # fmt: skip
    dump = write_dump(tmp_path, dumpversion="1", indexes={DEV: stage(*old)})
    first, docs, tox = files_of(dump)
    assert (first.version, first.hashes, first.upload_time) == ("1.0", {"md5": md5}, None)
    assert (docs.version, docs.hashes) == ("2.0", {})
    assert (tox.version, tox.tested, tox.hashes) == ("1.0", "demo-1.0.zip", {"sha256": SHA256})
    assert [dump.verify(file) for file in (first, docs, tox)] == [(SHA256, len(DATA))] * 3


def test_hash_of_the_tested_file(tmp_path: Path) -> None:
    """What devpi-server 6.5 to 6.8 stated as a tox result's hash is not taken for it."""
    tested = "ab" * 32
    relpath = f"joe/dev/demo/sha256={tested}/demo-1.0.zip.toxresult-20220101000000-0"
    mapping = {"hashes": {"sha256": tested}}
    item = described(
        relpath, type="toxresult", for_entrypath="x/demo-1.0.zip", entrymapping=mapping
    )
    dump = write_dump(tmp_path, indexes={DEV: stage(item)})
    assert dump.verify(files_of(dump)[0])[0] == SHA256


@pytest.mark.parametrize("relpath", ["../outside", "joe/../../outside", "/etc/hostname"])
def test_paths_out_of_the_dump(tmp_path: Path, relpath: str) -> None:
    """A dump cannot name a file that is not in it."""
    dump = write_dump(tmp_path / "dump")
    (tmp_path / "outside").write_bytes(DATA)
    with pytest.raises(InvalidRequest, match="leads out"):
        dump.open_path(DumpedFile("releasefile", DEV, "demo", "1.0", relpath))


@pytest.mark.parametrize("name", ["md5", "sha256", "sha512"])
def test_hashes_are_verified(tmp_path: Path, name: str) -> None:
    """Any hash that a dump states is compared."""
    dump = write_dump(tmp_path, indexes={DEV: stage(described("joe/dev/demo-1.0.zip"))})
    file = evolve(files_of(dump)[0], hashes={name: "ab" * 16})
    with pytest.raises(InvalidRequest, match=f"do not have the {name}"):
        dump.verify(file)


def test_options_of_plugins() -> None:
    """Unknown options are kept and noted, impossible values named; nothing else is lost."""
    taken = take_options(
        DEV,
        {"type": "stage", "constraints": "x<1", "volatile": "perhaps", "title": "T",
         "bases": ["joe/dev", "joe/gone"], "uploadtrigger_jenkins": None},
    )  # fmt: skip
    assert isinstance(taken.index, HostedIndex)
    assert taken.index.options == {"constraints": "x<1", "title": "T"}
    assert taken.index.bases == ("joe/gone",)
    assert taken.index.mirror_whitelist_inheritance == "union"  # as without it in devpi
    assert [note.split()[1] for note in taken.notes] == ["constraints"]
    assert [problem.split()[1] for problem in taken.problems] == ["volatile"]


def test_options_of_old_servers() -> None:
    """What was renamed is taken under today's name; a password leaves the mirror's URL."""
    hosted = take_options(DEV, {"pypi_whitelist": ["Some_Name"], "type": "stage"}).index
    assert isinstance(hosted, HostedIndex)
    assert hosted.mirror_whitelist == ("some-name",)
    options = {"type": "mirror", "mirror_url": "http://u:p@up.example/", "bases": ["a/b"]}
    mirror = take_options(MIRROR, options)
    assert isinstance(mirror.index, MirrorIndex)
    assert mirror.index.mirror_url == "http://up.example/"
    assert mirror.secrets == {"mirror_credentials": "u:p"}


def test_types_of_plugins() -> None:
    """An index of a type that only a plugin knows is refused by name."""
    with pytest.raises(InvalidRequest, match="constrained"):
        take_options(DEV, {"type": "constrained"})


GRAPHS = st.dictionaries(
    st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdefg"), max_size=3), max_size=6
)


@given(graph=GRAPHS)
def test_bases_come_first(graph: dict[str, list[str]]) -> None:
    """Every index comes once, and after each base from which it cannot be reached again."""
    order = bases_first({name: {"bases": bases} for name, bases in graph.items()})
    assert sorted(order) == sorted(graph)
    for name, bases in graph.items():
        for base in bases:
            if base in graph and name not in _reached(graph, base):
                assert order.index(base) < order.index(name)


def _reached(graph: Mapping[str, Sequence[str]], start: str) -> set[str]:
    found, waiting = set[str](), [start]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph.get(name, ())
    return found


def test_password_hashes() -> None:
    """Old and new hashes are good for their password alone; only weak ones are to be replaced."""
    salt = "c2FsdA=="
    old = from_devpi(hashlib.sha256(f"{salt}pässword".encode()).hexdigest(), salt)
    assert matches(old, "pässword")
    assert not matches(old, "password")
    assert needs_upgrade(old)
    assert from_devpi(ARGON2, None) == ARGON2
    assert matches(ARGON2, "secret")
    assert not needs_upgrade(ARGON2)
    assert needs_upgrade(
        "$argon2i$v=19$m=512,t=2,p=2$aI2R0hpDyLm3ltLa+1/rvQ$LqPKjd6n8yniKtAithoR7A"
    )


@pytest_twisted.ensureDeferred
async def test_upgrade_of_a_hash(tmp_path: Path) -> None:
    """The new hash takes the place of the one that was checked, and of no other; a login does not
    wait for replicas."""

    async def no_replica(*_: object) -> None:
        raise NotReplicated("there is none")

    blobs = SecretBlobs(tmp_path)
    with database() as of:
        writing_to = writer(of)
        joe = User("joe", "ab" * 32, {"email": "j@j"})
        payload = {"user": "joe", "password": joe.password, "options": dict(joe.options)}
        await writing_to.write("root", lambda c: [START, Change(Kind.USER_SET, payload)])
        upgrade = PasswordUpgrade(writing_to, blobs, Inline())
        writing_to.confirm = no_replica
        await upgrade.upgrade(evolve(joe, password="cd" * 32), "secret")
        assert await of.read(lambda c: queries.user(c, "joe")) == joe
        await upgrade.upgrade(joe, "secret")
        after = await of.read(lambda c: queries.user(c, "joe"))
        assert after is not None
        assert after.options == joe.options
        assert matches(blobs.get(str(after.password)).decode(), "secret")


@pytest.mark.parametrize("password", ["", "!", LOCKED])
def test_no_hash_is_no_password(password: str) -> None:
    """Without a hash in the dump no password is right, and there is nothing to upgrade."""
    assert from_devpi(None, None) == from_devpi("", None) == LOCKED
    assert not matches(LOCKED, password)
    assert not needs_upgrade(LOCKED)


@pytest.mark.parametrize(
    ("pwhash", "pwsalt"), [("plain", None), ("ab" * 32, "a$b"), ("zz" * 32, "salt"), ("ab", "salt")]
)
def test_what_is_no_hash(pwhash: str, pwsalt: str | None) -> None:
    """Garbage is refused at once, not at the first login."""
    with pytest.raises(ValueError, match="not a"):
        from_devpi(pwhash, pwsalt)


@define
class FakeTarget:
    """Takes `most` batches; remembers what it was given."""

    most: int = 1_000
    batches: list[list[str]] = field(factory=list)

    def take(self, things: Sequence[Thing]) -> list[Outcome]:
        """Everything is new."""
        if len(self.batches) == self.most:
            raise BrokenOff("enough")
        self.batches.append([name_of(thing) for thing in things])
        return [Outcome()] * len(things)


def small_dump(folder: Path) -> Dump:
    """Two users, three indexes, 150 releases, a tox result that stands before its file."""
    tox = described(
        "joe/dev/demo/x/demo-1.0.zip.toxresult-20220101000000-0", type="toxresult",
        for_entrypath="x/demo-1.0.zip",
    )  # fmt: skip
    projects = {f"p{n}": {"1.0": {"name": f"P{n}"}} for n in range(150)}
    return write_dump(
        folder,
        users={"root": {"pwhash": ARGON2}, "joe": {"pwhash": ARGON2}},
        indexes={
            "joe/a": stage(config={"bases": ["joe/dev", "joe/gone"]}),
            DEV: stage(
                tox, described("joe/dev/demo-1.0.zip"), projects={"demo": {}, **projects}
            ),
            MIRROR: {"indexconfig": {"type": "mirror"}, "projects": {"q": {"1": {}}}, "files": []},
        },
    )  # fmt: skip


def test_order(tmp_path: Path) -> None:
    """Users, bases, heirs, names, files, tox results; root is the very last; all is counted."""
    dump, target, done = small_dump(tmp_path), FakeTarget(), list[int]()
    work = Import(dump, dump.survey(), target, done.append)
    tally = work.run()
    batches = target.batches
    assert batches[:4] == [["joe"], [DEV], ["joe/a"], [MIRROR]]
    names = [name for batch in batches[4:-3] for name in batch]
    assert len(batches[4:-3]) > 1
    assert names[:3] == ["joe/dev/demo", "joe/dev/p0", "joe/dev/p0 1.0"]
    assert len(names) == 301
    assert [batch[0].rpartition("/")[2][:22] for batch in batches[-3:]] == [
        "demo-1.0.zip", "demo-1.0.zip.toxresult", "root",
    ]  # fmt: skip
    assert sum(done) == work.total
    assert tally.lost == 0
    assert tally.imported[What.PROJECTS] == 151
    assert tally.notes == ["joe/a: its base joe/gone is not in the dump"]


def test_breaking_off(tmp_path: Path) -> None:
    """What was done before the primary went away is counted."""
    dump = small_dump(tmp_path)
    work = Import(dump, dump.survey(), FakeTarget(most=2))
    with pytest.raises(BrokenOff):
        work.run()
    assert (work.tally.imported[What.USERS], work.tally.imported[What.INDEXES]) == (1, 1)


def test_dry_run_says_what_would_be_lost(tmp_path: Path) -> None:
    """Each thing that cannot be taken is named with its reason, and what hangs on it too."""
    dump = write_dump(
        tmp_path,
        users={"joe": {"pwhash": "garbage"}, "j/j": {}},
        indexes={
            "joe/odd": stage(config={"type": "constrained"}, projects={"demo": {"1": {}}}),
            DEV: stage(
                described("joe/dev/x.zip.toxresult-1", type="toxresult", for_entrypath="x.zip"),
                described("joe/dev/unknown", type="surprise"),
                projects={"-bad-": {}},
            ),
        },
    )  # fmt: skip
    tally = Import(dump, dump.survey(), DryRun(dump)).run()
    reasons = "\n".join(tally.reasons())
    for said in (
        "users: joe: its password hash", "users: j/j: ", "indexes: joe/odd: unknown index type",
        "projects: joe/odd/demo: its index joe/odd is not taken over", "projects: joe/dev/-bad-: ",
        "releases: joe/odd/demo 1: its index", "files: joe/dev/unknown: its kind 'surprise'",
        "tox results: joe/dev/x.zip.toxresult-1: the file that was tested",
    ):  # fmt: skip
        assert said in reasons, said
    assert tally.lost == 8


def test_reasons_are_gathered() -> None:
    """A thousand things with one reason are one line."""
    tally = Tally()
    for number in range(1_000):
        tally.skip(What.FILES, f"f{number}", "broken")
    (line,) = tally.reasons()
    assert line == "files: f0, f1, f2, f3, f4 and 995 more: broken"
    assert tally.lost == 1_000


@pytest.fixture
def state() -> Iterator[Connection]:
    """The state after a first start, with user joe and his two indexes."""
    with engine() as made, writing(made) as connection:
        record(connection, [START, user("root")], FIRST_START)
        record(connection, [index_set(root_pypi("https://first.example/simple/"))], FIRST_START)
        record(connection, [user("joe"), index_set(HostedIndex(DEV))])
        mirror = MirrorIndex(MIRROR, mirror_url="https://up.example/")
        record(connection, [index_set(mirror)])
        yield connection


def user(name: str, **options: Any) -> Change:
    return Change(Kind.USER_SET, {"user": name, "options": options})


def record(connection: Connection, made: Sequence[Change], actor: str = "root") -> int:
    """Append changes and apply them; how many there were."""
    frontier = changelog.frontier(connection)
    for serial, change in enumerate(made, start=frontier.size + 1):
        entry = encode(change, serial=serial, epoch=EPOCH, time=TIME, actor=actor)
        frontier = changelog.append(connection, frontier, [entry])
        apply(connection, entry, Touched())
    return len(made)


def arrival(kind: str = "releasefile", **more: Any) -> Arrival:
    """A file whose bytes are in the store."""
    name = {"releasefile": "demo-1.0.zip", "doczip": "demo-1.0.doc.zip"}.get(kind, "result")
    file = DistributionFile(name, version="1.0", hashes={"sha256": SHA256}, size=len(DATA))
    log = [{"what": "upload", "who": "joe", "when": [2020, 1, 2, 3, 4, 5], "dst": "joe/dev"}]
    facts = {"index": DEV, "file": file, "log": log, "tested": "demo-1.0.zip", **more}
    return Arrival(kind=kind, project=DEMO, name="Demo", version="1.0", **facts)


@pytest.mark.parametrize("kind", ["releasefile", "doczip", "toxresult"])
def test_files_come_once(state: Connection, kind: str) -> None:
    """A file is recorded with its log, again changes nothing, and other bytes are a conflict."""
    if kind == "toxresult":
        with pytest.raises(Conflict, match="tested"):
            changes.add_file(state, arrival(kind))
        record(state, changes.add_file(state, arrival()))
    assert record(state, changes.add_file(state, arrival(kind))) == 1
    assert changes.add_file(state, arrival(kind)) == []
    held: Any = {
        "releasefile": lambda: contents.held_files(state, (DEV, DEMO)),
        "doczip": lambda: list(contents.docs_of(state, (DEV, DEMO)).values()),
        "toxresult": lambda: contents.toxresults_of(state, (DEV, DEMO)),
    }[kind]()
    assert [one.log for one in held] == [arrival().log]
    other = evolve(arrival(kind), file=evolve(arrival(kind).file, hashes={"sha256": "ab" * 32}))
    with pytest.raises(Conflict, match="other bytes"):
        changes.add_file(state, other)


def test_requires_python_of_the_release(state: Connection) -> None:
    """A file that says nothing itself has what devpi showed for it: its release's."""
    metadata = {"name": "Demo", "version": "1.0", "requires_python": ">=3.9"}
    record(state, changes.set_release(state, (DEV, DEMO), "Demo", "1.0", metadata))
    record(state, changes.add_file(state, arrival()))
    (file,) = queries.project_files(state, DEV, DEMO)
    assert file.requires_python == ">=3.9"


def test_imported_files_are_marked(state: Connection) -> None:
    """What hears of uploads can tell an old file that came over from a new upload."""
    (change,) = changes.add_file(state, arrival())
    assert change.payload["imported"] is True


def test_files_of_mirrors(state: Connection) -> None:
    """A file that devpi kept of an upstream is on the mirror's page until a refresh."""
    mirrored = arrival(index=MIRROR)
    assert record(state, changes.add_file(state, mirrored)) == 1
    assert changes.add_file(state, mirrored) == []
    page = queries.project_page(state, queries.index_or_404(state, MIRROR), DEMO)
    assert [file.sha256 for file in page.files] == [SHA256]


def test_releases_and_names(state: Connection) -> None:
    """Names and metadata come once, however long; what is there otherwise stays, and is said."""
    where, text = (DEV, DEMO), "é" * 300_000
    metadata = {"name": "Demo", "version": "1.0", "description": text, "classifiers": ["A", "B"]}
    assert record(state, changes.register(state, *where, "Demo")) == 1
    assert changes.register(state, *where, "Demo") == []
    assert record(state, changes.set_release(state, where, "Demo", "1.0", metadata)) > 1
    assert changes.set_release(state, where, "Demo", "1.0", metadata) == []
    assert contents.release(state, where, "1.0") == metadata
    with pytest.raises(Conflict, match="other metadata"):
        changes.set_release(state, where, "Demo", "1.0", {"name": "Demo"})
    for index, error in ((IndexName("joe/none"), NotFound), (MIRROR, Conflict)):
        with pytest.raises(error):
            changes.register(state, index, DEMO, "Demo")


def test_users_who_are_there(state: Connection) -> None:
    """A user who is there stays: silently if alike, and said if not."""
    assert record(state, changes.set_user(state, User("eve", "ab" * 32, {"email": "e@e"}), []))
    again = User("eve", "cd" * 32, {"email": "e@e", "modified": "2024-01-01T00:00:00Z"})
    assert changes.set_user(state, again, []) == []
    with pytest.raises(Conflict, match="email"):
        changes.set_user(state, evolve(again, options={}), [])


def test_root_takes_the_password_of_the_dump(state: Connection) -> None:
    """Root of a first start becomes root of the dump; a password that was set here stays."""
    notes: list[str] = []
    dumped = User("root", "ab" * 32, {"title": "The root"})
    assert record(state, changes.set_user(state, dumped, notes)) == 1
    assert queries.user(state, "root") == dumped
    assert notes == []
    changed = User("root", "cd" * 32, {"title": "The root"})
    assert changes.set_user(state, changed, notes) == []


def test_root_keeps_a_password_of_the_first_start() -> None:
    """With --root-passwd-file the operator has chosen: a weaker old one does not replace it."""
    with engine() as made, writing(made) as connection:
        payload = {"user": "root", "password": "ef" * 32, "options": {}}
        record(connection, [START, Change(Kind.USER_SET, payload)], FIRST_START)
        notes: list[str] = []
        record(connection, changes.set_user(connection, User("root", "ab" * 32, {"a": 1}), notes))
        assert queries.user(connection, "root") == User("root", "ef" * 32, {"a": 1})
        assert notes == ["root keeps the password that was set here"]


def test_indexes_who_are_there(state: Connection) -> None:
    """root/pypi of a first start gives way to the dump's; other indexes stay as they are."""
    dumped = evolve(root_pypi("https://inner.example/simple/"), volatile=True)
    assert record(state, changes.set_index(state, dumped)) == 1
    assert to_options(queries.index_or_404(state, dumped.name)) == to_options(dumped)
    assert changes.set_index(state, dumped) == []
    with pytest.raises(Conflict, match="mirror_url"):
        changes.set_index(state, root_pypi("https://third.example/simple/"))
    with pytest.raises(Conflict, match="volatile"):
        changes.set_index(state, HostedIndex(DEV, volatile=False))
    with pytest.raises(NotFound, match="no user"):
        changes.set_index(state, HostedIndex(IndexName("nobody/dev")))


def test_things_have_names() -> None:
    """Messages call each thing by what the operator knows it by."""
    assert name_of(DumpedUser("joe", {})) == "joe"
    assert name_of(DumpedIndex(DEV, {})) == DEV
