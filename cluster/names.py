"""Names of projects, users, indexes, distribution files and versions (pure).

A name that passed one of these functions is safe in a URL and in a log line; none ever
becomes a path on disk (files are stored by digest).
"""

from __future__ import annotations

import re
from typing import NewType

from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import InvalidVersion, Version

from cluster.errors import InvalidRequest

IndexName = NewType("IndexName", str)
"""``user/index``, both parts checked."""

# devpi refuses control characters, space and these in user and index names (devpi-api §1).
_REFUSED = re.compile(r"""[\x00-\x20\x7f!"#$%&'()*+,/:;<=>?\[\\\]^`{|}~]""")
_PROJECT = re.compile(r"[A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9]", re.IGNORECASE | re.ASCII)
_SDIST_SUFFIXES = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.z", ".tgz", ".tar", ".zip")
_BINARY_SUFFIXES = (".whl", ".egg", ".exe", ".msi", ".rpm", ".deb", ".dmg")
_MAX_NAME = 255

__all__ = [
    "IndexName", "NormalizedName", "display_version", "index_name", "is_filename", "normalize",
    "project_name", "version_from_filename", "version_sort_key",
]  # fmt: skip


def normalize(name: str) -> NormalizedName:
    """The normalized form of a project name (PEP 503), without judging the name."""
    return canonicalize_name(name)


def project_name(name: str) -> NormalizedName:
    """Check a project's name by the grammar of the name specification and normalize it.

    Raises InvalidRequest for anything else.
    """
    if len(name) > _MAX_NAME or not _PROJECT.fullmatch(name):
        raise InvalidRequest(f"{name!r} is not a valid project name")
    return canonicalize_name(name)


def index_name(user: str, index: str) -> IndexName:
    """Join a user's and an index's name as devpi writes them; raises InvalidRequest."""
    for what, part in (("user", user), ("index", index)):
        if not part or len(part) > _MAX_NAME or part.startswith("+") or part in (".", ".."):
            raise InvalidRequest(f"{part!r} is not a valid {what} name")
        if _REFUSED.search(part):
            raise InvalidRequest(f"{what} name {part!r} has a character that is not allowed")
    return IndexName(f"{user}/{index}")


def is_filename(name: str) -> bool:
    """Whether a name can be one path segment: what upstream calls a file we only list then.

    Refuses separators, control characters (a CR LF would reach header lines), dot names and
    anything longer than file systems and installers take.
    """
    return (
        0 < len(name) <= _MAX_NAME
        and name not in (".", "..")
        and "/" not in name
        and "\\" not in name
        and name.isprintable()
    )


def version_from_filename(filename: str, project: NormalizedName) -> str | None:
    """The version that a distribution file's name states, or None where it states none.

    Mirrors carry names that no specification allows any more (standards W2, W3), so this
    reads leniently: wheel ``{name}-{version}-…``, else the rest behind the project's name.
    """
    lower = filename.lower()
    if lower.endswith((".whl", ".egg")):
        parts = filename[:-4].split("-")
        return (
            display_version(parts[1].replace("_", "-"))
            if len(parts) > 2 or (len(parts) == 2 and lower.endswith(".egg"))
            else None
        )
    suffix = next((s for s in _SDIST_SUFFIXES + _BINARY_SUFFIXES if lower.endswith(s)), None)
    if suffix is None:
        return None
    stem = filename[: -len(suffix)]
    for at, char in enumerate(stem):
        if char == "-" and canonicalize_name(stem[:at]) == project and at + 1 < len(stem):
            return display_version(re.split(r"\.(?:win|linux|macosx)", stem[at + 1 :])[0])
    return None


def display_version(version: str) -> str:
    """A version as it is listed: normalized by PEP 440 where possible, else as written (W4)."""
    try:
        return str(Version(version))
    except InvalidVersion:
        return version


def version_sort_key(version: str) -> tuple[int, Version | None, str]:
    """Order versions as PEP 440 does, with strings outside it first, by their text."""
    try:
        return (1, Version(version), version)
    except InvalidVersion:
        return (0, None, version)
