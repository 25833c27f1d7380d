"""Distributions and upload forms as bytes: real, installable, and the same in every run."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import random
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen
from packaging.utils import canonicalize_name

FormValue = str | Sequence[str] | None

_ZIP_DATE = (2024, 1, 1, 0, 0, 0)
_EPOCH = 1_704_067_200  # the same moment, for tar
_BOUNDARY = "pymirror-tests-7d1f0c3b9a"


@frozen
class Built:
    """A distribution file: its name, its bytes, and what an index says about it."""

    filename: str
    data: bytes
    sha256: str
    metadata: bytes
    name: str
    version: str
    filetype: str
    pyversion: str
    requires_python: str | None = None

    @property
    def metadata_sha256(self) -> str:
        """The sha256 of the core metadata, as `core-metadata` states it (PEP 714)."""
        return hashlib.sha256(self.metadata).hexdigest()


def wheel(
    name: str,
    version: str,
    *,
    requires: Iterable[str] = (),
    requires_python: str | None = None,
    files: Mapping[str, bytes] | None = None,
    size: int = 0,
    metadata_version: str = "2.4",
) -> Built:
    """A pure wheel with one module, `files` (path in the wheel → bytes) and `size` bytes more.

    The module's `NAME` and `VERSION` say what was installed. Padding does not compress.
    """
    module = canonicalize_name(name).replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = core_metadata(name, version, requires, requires_python, metadata_version)
    content = {
        f"{module}.py": f"NAME = {name!r}\nVERSION = {version!r}\n".encode(),
        **(files or {}),
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: pymirror-tests\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if size:
        content[f"{module}_padding.bin"] = _padding(f"{module}-{version}", size)
    content[f"{info}/RECORD"] = _record(content, f"{info}/RECORD")
    filename = f"{module}-{version}-py3-none-any.whl"
    return _built(
        filename, _zip(content), metadata, (name, version), ("bdist_wheel", "py3"), requires_python
    )


def sdist(
    name: str,
    version: str,
    *,
    requires: Iterable[str] = (),
    requires_python: str | None = None,
    files: Mapping[str, bytes] | None = None,
    size: int = 0,
    metadata_version: str = "2.4",
) -> Built:
    """A source distribution by PEP 625, to be served and uploaded; no test builds it."""
    module = canonicalize_name(name).replace("-", "_")
    root = f"{module}-{version}"
    metadata = core_metadata(name, version, requires, requires_python, metadata_version)
    content = {
        f"{root}/PKG-INFO": metadata,
        f"{root}/pyproject.toml": (
            '[build-system]\nrequires = ["setuptools>=69"]\n'
            'build-backend = "setuptools.build_meta"\n\n'
            f'[project]\nname = "{name}"\nversion = "{version}"\n'
        ).encode(),
        f"{root}/{module}.py": f"NAME = {name!r}\nVERSION = {version!r}\n".encode(),
        **{f"{root}/{path}": data for path, data in (files or {}).items()},
    }
    if size:
        content[f"{root}/padding.bin"] = _padding(root, size)
    return _built(
        f"{root}.tar.gz",
        _tar_gz(content),
        metadata,
        (name, version),
        ("sdist", "source"),
        requires_python,
    )


def core_metadata(
    name: str,
    version: str,
    requires: Iterable[str] = (),
    requires_python: str | None = None,
    metadata_version: str = "2.4",
) -> bytes:
    """METADATA or PKG-INFO with the fields that installers read, and a description."""
    lines = [f"Metadata-Version: {metadata_version}", f"Name: {name}", f"Version: {version}"]
    lines.append(f"Summary: A test package called {name}")
    if requires_python is not None:
        lines.append(f"Requires-Python: {requires_python}")
    lines.extend(f"Requires-Dist: {requirement}" for requirement in requires)
    lines.append("Description-Content-Type: text/plain")
    return ("\n".join(lines) + f"\n\n{name} {version}, generated for a test.\n").encode()


def legacy_form(built: Built, **override: FormValue) -> tuple[str, bytes]:
    """The content type and body with which twine uploads `built` (standards.md §6).

    `override` sets form fields by name: a list repeats the field, None leaves it out.
    ``action`` stands for ``:action``; ``filename`` is the name of the content part.
    """
    fields = {**_form_fields(built), **override}
    filename = str(fields.pop("filename"))
    fields[":action"] = fields.pop("action")
    return multipart(fields, filename, built.data)


def multipart(fields: Mapping[str, FormValue], filename: str, data: bytes) -> tuple[str, bytes]:
    """A multipart/form-data body with `fields` and one content part, and its content type."""
    body = io.BytesIO()
    for name, value in fields.items():
        for one in [value] if isinstance(value, str) else value or ():
            body.write(f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'.encode())
            body.write(f"\r\n\r\n{one}\r\n".encode())
    head = f'form-data; name="content"; filename="{filename}"'
    body.write(f"--{_BOUNDARY}\r\nContent-Disposition: {head}\r\n".encode())
    body.write(b"Content-Type: application/octet-stream\r\n\r\n" + data)
    body.write(f"\r\n--{_BOUNDARY}--\r\n".encode())
    return f"multipart/form-data; boundary={_BOUNDARY}", body.getvalue()


def _form_fields(built: Built) -> dict[str, FormValue]:
    requires = [
        line.removeprefix("Requires-Dist: ")
        for line in built.metadata.decode().splitlines()
        if line.startswith("Requires-Dist: ")
    ]
    return {
        "action": "file_upload",
        "protocol_version": "1",
        "filename": built.filename,
        "filetype": built.filetype,
        "pyversion": built.pyversion,
        "metadata_version": built.metadata.decode().split("\n", 1)[0].split(": ")[1],
        "name": built.name,
        "version": built.version,
        "summary": f"A test package called {built.name}",
        "description": f"{built.name} {built.version}, generated for a test.",
        "description_content_type": "text/plain",
        "requires_python": built.requires_python,
        "requires_dist": requires,
        "sha256_digest": built.sha256,
        "blake2_256_digest": hashlib.blake2b(built.data, digest_size=32).hexdigest(),
    }


def _built(
    filename: str,
    data: bytes,
    metadata: bytes,
    release: tuple[str, str],
    kind: tuple[str, str],
    requires_python: str | None,
) -> Built:
    sha256 = hashlib.sha256(data).hexdigest()
    return Built(filename, data, sha256, metadata, *release, *kind, requires_python)


def _padding(seed: str, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _record(content: Mapping[str, bytes], own_path: str) -> bytes:
    lines = []
    for path, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(data)}\n")
    return "".join([*lines, f"{own_path},,\n"]).encode()


def _zip(content: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            member = zipfile.ZipInfo(path, _ZIP_DATE)
            member.external_attr = 0o644 << 16
            archive.writestr(member, data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _tar_gz(content: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, data in content.items():
            member = tarfile.TarInfo(path)
            member.size, member.mtime, member.mode = len(data), _EPOCH, 0o644
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(out.getvalue(), mtime=_EPOCH)
