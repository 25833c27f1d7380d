"""The test packages are real: they install, they say what they are, and they never vary."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import multipart
import pytest
from packaging.metadata import Metadata
from packaging.utils import parse_sdist_filename, parse_wheel_filename

from tests.builders import Built, legacy_form, sdist, wheel
from tests.installers import install_files


def test_wheel_installs(tmp_path: Path) -> None:
    """pip accepts the wheel, RECORD hashes included, and the module says its version."""
    built = wheel("Some.Name", "1.2", size=1000)
    install_files([built], tmp_path / "target")
    assert (tmp_path / "target" / "some_name.py").read_text().endswith("VERSION = '1.2'\n")
    found = list(importlib.metadata.distributions(path=[str(tmp_path / "target")]))
    assert [d.version for d in found] == ["1.2"]
    assert len((tmp_path / "target" / "some_name_padding.bin").read_bytes()) == 1000


def test_wheel_states_its_metadata() -> None:
    """Name, dependencies and Python requirement are in METADATA, equal to the `metadata` bytes."""
    built = wheel("a-b", "1.0+cu116", requires=["c>=2"], requires_python=">=3.9")
    with zipfile.ZipFile(io.BytesIO(built.data)) as archive:
        assert archive.read("a_b-1.0+cu116.dist-info/METADATA") == built.metadata
    metadata = Metadata.from_email(built.metadata)
    assert (metadata.name, str(metadata.version)) == ("a-b", "1.0+cu116")
    assert [str(r) for r in metadata.requires_dist or ()] == ["c>=2"]
    assert str(metadata.requires_python) == ">=3.9"
    assert parse_wheel_filename(built.filename)[0] == "a-b"


def test_sdist_states_its_metadata() -> None:
    """The sdist is named by PEP 625 and holds PKG-INFO and a build system."""
    built = sdist("A-b", "2.0", files={"README": b"hello"})
    assert parse_sdist_filename(built.filename)[0] == "a-b"
    with tarfile.open(fileobj=io.BytesIO(built.data)) as archive:
        assert set(archive.getnames()) == {
            f"a_b-2.0/{name}" for name in ("PKG-INFO", "pyproject.toml", "a_b.py", "README")
        }
        member = archive.extractfile("a_b-2.0/PKG-INFO")
        assert member is not None
        assert member.read() == built.metadata


@pytest.mark.parametrize("make", [wheel, sdist])
def test_bytes_never_vary(make: Callable[..., Built]) -> None:
    """Two builds of one release are the same bytes; another size is other bytes."""
    one, two, other = make("x", "1", size=50), make("x", "1", size=50), make("x", "1", size=51)
    assert one == two
    assert one.sha256 == hashlib.sha256(one.data).hexdigest()
    assert one.sha256 != other.sha256


def test_legacy_form() -> None:
    """The form parses, repeats list fields, drops None and carries the file's bytes."""
    built = wheel("x", "1", requires=["a", "b>1"])
    content_type, body = legacy_form(built, pyversion=None, comment="hello", filename="y.whl")
    boundary = content_type.partition("boundary=")[2]
    parts = list(multipart.MultipartParser(io.BytesIO(body), boundary))
    values = [(p.name, p.value) for p in parts if p.name != "content"]
    assert (":action", "file_upload") in values
    assert ("comment", "hello") in values
    assert [v for k, v in values if k == "requires_dist"] == ["a", "b>1"]
    assert "pyversion" not in dict(values)
    (content,) = (p for p in parts if p.name == "content")
    assert (content.filename, content.raw) == ("y.whl", built.data)
