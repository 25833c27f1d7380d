"""Documentation zips, attestations and forms: what is taken and what is refused."""

from __future__ import annotations

import base64
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import InvalidRequest, TooLarge
from cluster.files.sink import Digests
from cluster.web.body import RequestStream
from cluster.web.provenance import acceptable
from cluster.web.stages import stage_id
from primary import uploadchecks
from primary.attestations import MAX_BYTES, provenance_of
from primary.uploadchecks import check_digests, check_docs, named_release, read_wheel_metadata
from primary.uploadform import Action, FieldsForm, action_of, form_of
from tests.strategies import json_values

B64 = base64.b64encode(b"x").decode()
ATTESTATION: dict[str, Any] = {
    "version": 1,
    "verification_material": {"certificate": B64, "transparency_entries": [{"logIndex": "1"}]},
    "envelope": {"statement": B64, "signature": B64},
}


def docs_zip(folder: Path, *names: str, packing: int = zipfile.ZIP_DEFLATED) -> Path:
    path = folder / "docs.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"<html>", packing)
    return path


def test_digests() -> None:
    """Every digest that a form states is compared; devpi-client states none."""
    right = {"sha256": "ab", "md5": "cd", "blake2b_256": "ef"}
    names = {"sha256_digest": "AB ", "md5_digest": "cd", "blake2_256_digest": "ef"}
    digests = Digests(1, right)
    for fields in ({}, {"sha256_digest": [""]}, {name: [text] for name, text in names.items()}):
        check_digests(fields, digests)
    for name in names:
        with pytest.raises(InvalidRequest, match=name):
            check_digests({**{n: [t] for n, t in names.items()}, name: ["00"]}, digests)


def test_docs_are_taken(tmp_path: Path) -> None:
    """A zip with pages and folders is documentation."""
    check_docs(docs_zip(tmp_path, "index.html", "a/", "a/b.html"), "d.zip")


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a\\..\\x", "\\x"])
def test_docs_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    """Members with absolute or climbing names are refused."""
    with pytest.raises(InvalidRequest, match="outside"):
        check_docs(docs_zip(tmp_path, "index.html", name), "d.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_docs_that_cannot_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zips with two members of one name, odd packing, passwords, or too much are refused."""
    with pytest.raises(InvalidRequest, match="two members"):
        check_docs(docs_zip(tmp_path, "a", "a"), "d.zip")
    with pytest.raises(InvalidRequest, match="packed by neither"):
        check_docs(docs_zip(tmp_path, "a", packing=zipfile.ZIP_LZMA), "d.zip")
    encrypted = bytearray(docs_zip(tmp_path, "a").read_bytes())
    encrypted[encrypted.find(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "e.zip").write_bytes(encrypted)
    with pytest.raises(InvalidRequest, match="encrypted"):
        check_docs(tmp_path / "e.zip", "d.zip")
    monkeypatch.setattr(uploadchecks, "_MAX_DOCS_BYTES", 11)
    with pytest.raises(InvalidRequest, match="unpacks to more"):
        check_docs(docs_zip(tmp_path, "a", "b"), "d.zip")


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x05\x06" + b"\xff" * 18])
def test_broken_docs(tmp_path: Path, data: bytes) -> None:
    """What is no zip is refused, whatever it is."""
    path = tmp_path / "docs.zip"
    path.write_bytes(data)
    with pytest.raises(InvalidRequest, match="not a whole zip"):
        check_docs(path, "d.zip")


def test_giant_directory_is_not_read(tmp_path: Path) -> None:
    """An archive that consists of a huge directory is refused before it fills the memory."""
    path, size = tmp_path / "x.zip", 1 << 30
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size, 0, 0))
    for read in (check_docs, read_wheel_metadata):
        with pytest.raises(InvalidRequest, match="directory is too large"):
            read(path, "x.zip")


def test_no_attestations() -> None:
    """No field, an empty field and an empty list are all nothing."""
    assert provenance_of({}) is None
    assert provenance_of({"attestations": [" "]}) is None
    assert provenance_of({"attestations": ["[]"]}) is None


def test_attestations_become_provenance() -> None:
    """Attestations come back as they were, in a provenance object of PEP 740's shape."""
    found = provenance_of({"attestations": [json.dumps([ATTESTATION])]})
    assert found is not None
    document = orjson.loads(found)
    assert document["version"] == 1
    [bundle] = document["attestation_bundles"]
    assert bundle["attestations"] == [ATTESTATION]
    assert bundle["publisher"]["kind"] == "unverified"


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"envelope": {"statement": B64}},
        {"envelope": {"statement": B64, "signature": "not base64!"}},
        {"verification_material": {"certificate": B64, "transparency_entries": []}},
        {"verification_material": {"certificate": 3, "transparency_entries": [{}]}},
    ],
)
def test_malformed_attestations(change: dict[str, Any]) -> None:
    """An attestation of another shape is refused."""
    with pytest.raises(InvalidRequest):
        provenance_of({"attestations": [json.dumps([{**ATTESTATION, **change}])]})


@given(json_values)
@settings(deadline=None, max_examples=60)
def test_other_json_is_no_attestation(value: Any) -> None:
    """Any other JSON is refused, or is an empty list."""
    fields = {"attestations": [orjson.dumps(value).decode()]}
    if value == []:
        assert provenance_of(fields) is None
        return
    with pytest.raises(InvalidRequest):
        provenance_of(fields)


@pytest.mark.parametrize("text", ["[", "x" * (MAX_BYTES + 1), json.dumps([ATTESTATION] * 33)])
def test_attestations_are_bounded(text: str) -> None:
    """What is not JSON, or too much, is refused."""
    with pytest.raises(InvalidRequest):
        provenance_of({"attestations": [text]})


def test_release_of_a_form() -> None:
    """Names and versions are checked and normalized; docs may have no version."""
    assert named_release({"name": ["Foo.Bar"], "version": ["1.0.0-1"]}) == (
        "Foo.Bar", "foo-bar", "1.0.0.post1",
    )  # fmt: skip
    assert named_release({"name": ["foo"]}, version_needed=False) == ("foo", "foo", "")
    for fields in ({"name": ["foo"]}, {"version": ["1"]}, {"name": ["a b"], "version": ["1"]}):
        with pytest.raises(InvalidRequest):
            named_release(fields)


class Still:
    """A connection that does not mind."""

    def pauseProducing(self) -> None:
        """Nothing to pause."""

    def resumeProducing(self) -> None:
        """Nothing to resume."""


def small_form(body: bytes) -> FieldsForm:
    stream = RequestStream(Still(), len(body))
    form = form_of("application/x-www-form-urlencoded; charset=utf-8", None, 9, stream)  # type: ignore[arg-type]
    assert isinstance(form, FieldsForm)
    form.write(body)
    return form


@given(st.binary(max_size=60))
def test_any_bytes_are_a_form_or_not(body: bytes) -> None:
    """Whatever comes in place of fields is read, or refused as the client's mistake."""
    form = small_form(body)
    try:
        form.finish()
        action_of(form)
    except InvalidRequest:
        return
    assert form.fields[":action"]


def test_form_without_file() -> None:
    """`submit` comes without a file; too much of it is refused; a file is missed where needed."""
    form = small_form(b"%3Aaction=submit&name=foo")
    form.finish()
    assert action_of(form) is Action.SUBMIT
    with pytest.raises(InvalidRequest, match="no file"):
        form.content()
    with pytest.raises(TooLarge):
        small_form(b"x" * (5 << 20)).check()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "ü", "x" * 65, "a b"])
def test_bad_stage(name: str) -> None:
    """A stage's name is a plain path segment."""
    with pytest.raises(InvalidRequest):
        stage_id(name)
    assert stage_id("release-1.0_rc.2") == "release-1.0_rc.2"


@pytest.mark.parametrize(
    ("accept", "taken"),
    [
        (None, True), ("*/*", True), ("application/vnd.pypi.integrity.v1+json", True),
        ("text/html", False), ("text/html, application/json;q=0.5", True),
    ],
)  # fmt: skip
def test_accept_of_provenance(accept: str | None, taken: bool) -> None:
    """Provenance is given to clients that take its type or any JSON."""
    assert acceptable(accept) is taken
