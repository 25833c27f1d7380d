"""From an upload's form to the stored metadata of a release: nothing changes on the way."""

from __future__ import annotations

import urllib.parse

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.metadata import RawMetadata

from cluster.errors import DiskRefused, InvalidRequest
from cluster.log.changes import Kind
from cluster.names import IndexName, NormalizedName
from cluster.state.releases import _joined
from cluster.web.body import RequestStream
from primary.releasemetadata import (
    LISTS,
    TEXTS,
    complete,
    metadata_of_form,
    release_changes,
    updated,
)
from primary.uploadform import Fields, Form, form_of
from tests.fakes import entry

INDEX, FOO = IndexName("root/dev"), NormalizedName("foo")
FREE_TEXTS = sorted({*TEXTS} - {"name", "version", "metadata_version", "keywords"})
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@define
class Connection:
    """Knows whether it is read from."""

    paused: bool = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False


@define
class Received:
    """A form that has come in pieces of `size` bytes."""

    content_type: str
    body: bytes
    size: int = 7
    form: Form = field(init=False)

    def __attrs_post_init__(self) -> None:
        stream = RequestStream(Connection(), len(self.body))
        self.form = form_of(self.content_type, None, 1 << 30, stream)  # type: ignore[arg-type]
        for at in range(0, len(self.body), self.size):
            self.form.write(self.body[at : at + self.size])
        self.form.finish()


def urlencoded(fields: Fields) -> tuple[str, bytes]:
    return "application/x-www-form-urlencoded", urllib.parse.urlencode(fields, doseq=True).encode()


def multipart(fields: Fields) -> tuple[str, bytes]:
    """A form without a file; the boundary is in none of the texts, which are short."""
    boundary = "-" * 50 + "x"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, values in fields.items()
        for value in values
    ]
    body = "".join(parts) + f"--{boundary}--\r\n"
    return f"multipart/form-data; boundary={boundary}", body.encode()


def stored(fields: dict[str, list[str]]) -> dict[str, object]:
    """The metadata as it stands in the state, by way of the log's entries."""
    metadata = complete(metadata_of_form(fields, "Foo", "1.0"))
    changes = release_changes(INDEX, FOO, None, metadata, {})
    known: dict[str, object] = {}
    for change in changes:
        assert change.kind is Kind.RELEASE_SET
        _joined(known, change.payload["metadata"])
    return known


def test_the_disk_fills_while_it_comes() -> None:
    """Room is asked for again and again: not everybody says how much will come."""
    content_type, body = multipart({"description": ["x" * (3 << 20)]})
    asked: list[int] = []

    def require_room() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise DiskRefused("full")

    connection = Connection()
    stream = RequestStream(connection, None)
    form = form_of(content_type, None, 1 << 30, stream, require_room)  # type: ignore[arg-type]
    for at in range(0, len(body), 10_000):
        form.write(body[at : at + 10_000])
    with pytest.raises(DiskRefused):
        form.finish()
    assert len(asked) == 2


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(FREE_TEXTS), texts),
    st.dictionaries(st.sampled_from(LISTS), st.lists(texts, max_size=4, unique=True)),
)
def test_any_text_comes_through(singles: dict[str, str], lists: dict[str, list[str]]) -> None:
    """Whatever text a form has in whatever field is what is stored, by both kinds of form."""
    sent = {**{key: [value] for key, value in singles.items()}, **lists}
    nothing = ("", "UNKNOWN")
    wanted = complete({"name": "Foo", "version": "1.0"})
    wanted |= {key: "" if value in nothing else value for key, value in singles.items()}
    wanted |= {k: [v for v in values if v not in nothing] for k, values in lists.items()}
    for encoded in (urlencoded, multipart):
        assert stored(dict(Received(*encoded(sent)).form.fields)) == wanted


@given(st.sampled_from(["description", "license"]), st.integers(0, 3), texts)
@settings(deadline=None, max_examples=30)
def test_long_text_comes_through(key: str, thousands: int, text: str) -> None:
    """A text of a hundred thousand characters is cut for the log and whole in the state."""
    long = text * thousands * 1_000
    assert stored({key: [long]})[key] == ("" if long == "UNKNOWN" else long)


def test_too_long_is_refused() -> None:
    """What does not fit into the log is refused, not cut."""
    with pytest.raises(InvalidRequest, match="more than the log takes"):
        stored({"description": ["\0" * (4 << 20)]})
    item = metadata_of_form({"license_file": ["x" * 70_000]}, "Foo", "1.0")
    large, *_ = release_changes(INDEX, FOO, None, item, {})
    with pytest.raises(InvalidRequest, match="at most 65535"):
        entry(1, large)


def test_every_field_of_the_specification_is_kept() -> None:
    """Each field that `packaging` knows is stored, under its own name or devpi's."""
    for name in RawMetadata.__annotations__:
        value = "2.6" if name == "metadata_version" else "value"
        found = metadata_of_form({name: [value]}, "Foo", "1.0")
        more = {k: v for k, v in found.items() if k not in ("name", "version")}
        if name in ("name", "version"):
            continue
        assert list(more.values()) in (["value"], [["value"]], ["2.6"]), name
        assert set(found) <= {*TEXTS, *LISTS}


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"platforms": ["any"]}, {"platform": ["any"]}),
        ({"provides_extra": ["a"], "provides_extras": ["b"]}, {"provides_extras": ["a", "b"]}),
        ({"license_files": ["L"]}, {"license_file": ["L"]}),
        ({"keywords": ["a", "b"]}, {"keywords": "a,b"}),
        ({"author": ["UNKNOWN"]}, {"author": ""}),
        ({"summary": ["one", "one"]}, {"summary": "one"}),
        ({"sha256_digest": ["00"], "content": ["x"]}, {}),
    ],
)  # fmt: skip
def test_spellings(sent: dict[str, list[str]], kept: dict[str, object]) -> None:
    """Other tools' names and habits come to what devpi stores; what is not metadata is left."""
    assert metadata_of_form(sent, "Foo", "1.0") == {"name": "Foo", "version": "1.0", **kept}


@pytest.mark.parametrize(
    "fields",
    [{"summary": ["one", "two"]}, {"metadata_version": ["3.0"]}, {"metadata_version": ["new"]}],
)
def test_refused_metadata(fields: dict[str, list[str]]) -> None:
    """Two values for one, and metadata with rules that nobody knows yet, are refused."""
    with pytest.raises(InvalidRequest):
        metadata_of_form(fields, "Foo", "1.0")


def test_first_spelling_of_a_name_stays() -> None:
    """Files that spell their project in other ways do not rename it."""
    known = complete({"name": "Foo", "version": "1.0"})
    assert updated(known, {"name": "foo", "version": "1.0"}) == known
