"""What an upstream claims about one file, checked fact by fact (pure).

Input is a file object of PEP 691, from a JSON page or built from an HTML link. A claim that
decides what is installed (name, URL, hashes, requires-python, yanked) must be well-formed or
the file is not listed; a claim that only adds comfort (size, time, …) is dropped alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit, urlunsplit

from cluster.errors import InvalidRequest, UpstreamError
from cluster.model import SHA256, DistributionFile
from cluster.names import NormalizedName, is_filename, normalize, version_from_filename

# What one group of log entries holds (256 parts of 64 KB), and more than any real project has.
MAX_FILES = 30_000
# A flat page lists many projects.
MAX_LINKS = 100_000
# Digits of each fixed-size hash that hashlib guarantees; spelled out, because a build of
# Python may lack some of them and every node must read the same page alike.
HASH_DIGITS = {
    "md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128,
    "sha3_224": 56, "sha3_256": 64, "sha3_384": 96, "sha3_512": 128,
    "blake2b": 128, "blake2s": 64,
}  # fmt: skip
_SDISTS = (".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tar.z", ".tgz", ".tar")
_BUILT = (".whl", ".egg", ".exe", ".msi", ".rpm", ".deb", ".dmg")
_MAX_URL = 8192
_MAX_REQUIRES_PYTHON = 1024
_MAX_REASON = 4096  # characters; a longer reason is cut, it is text for people
_MAX_SIZE = 2**53  # bytes; beyond it JSON readers disagree about integers
_URL_SAFE = "%/:?#[]@!$&'()*+,;=~"
_CONTROL = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), " ")
_HEX = re.compile(r"[0-9a-f]+")
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ]((?:[01]\d|2[0-3]):\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)",
    re.ASCII,
)


def too_many_files(most: int = MAX_FILES) -> UpstreamError:
    """The error for a page that lists more than `most` files."""
    return UpstreamError(f"the page lists more than {most:,} files")


def is_archive(name: str) -> bool:
    """Whether a name ends as distribution files do, of today or of twenty years ago (W3)."""
    return name.lower().endswith(_SDISTS + _BUILT)


def belongs_to(filename: str, project: NormalizedName) -> bool:
    """Whether a file on a flat page is one of the project's, judged by its name alone."""
    lower = filename.lower()
    if lower.endswith(_BUILT):
        return normalize(filename.partition("-")[0]) == project or _sdist_of(filename, project)
    return _sdist_of(filename, project)


def read_file(claims: Mapping[str, object], project: NormalizedName) -> DistributionFile:
    """The file that an object of PEP 691 with an absolute URL describes.

    Raises InvalidRequest with the reason for an object that cannot be listed.
    """
    filename = claims.get("filename")
    if not isinstance(filename, str) or not is_filename(filename) or not is_archive(filename):
        raise InvalidRequest("not the name of a distribution file")
    return DistributionFile(
        filename=filename,
        version=version_from_filename(filename, project) or None,
        hashes=_hashes(claims.get("hashes")),
        size=_size(claims.get("size")),
        url=_url(claims.get("url")),
        requires_python=_requires_python(claims.get("requires-python")),
        upload_time=read_time(claims.get("upload-time")),
        yanked=_yanked(claims.get("yanked")),
        core_metadata=_metadata_digest(claims.get("core-metadata")),
        provenance=_provenance(claims.get("provenance")),
    )


def read_time(claim: object) -> str | None:
    """A point in time as ``YYYY-MM-DDTHH:MM:SS[.ffffff]Z``, or None if it is not one.

    A time without zone is not one: PEP 700 wants UTC, and guessing may be wrong by a day.
    """
    match = _TIME.fullmatch(claim.strip()) if isinstance(claim, str) else None
    if match is None:
        return None
    date, time, fraction, zone = match.groups()
    micros = (fraction or "")[:6].ljust(6, "0")
    offset = "+00:00" if zone in "Zz" else zone
    try:
        moment = datetime.fromisoformat(f"{date}T{time}.{micros}{offset}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment.replace(tzinfo=None).isoformat() + "Z"


def read_text(claim: object) -> str | None:
    """A text for people, without control characters and cut to a bound; None if not text."""
    return claim.translate(_CONTROL)[:_MAX_REASON] if isinstance(claim, str) else None


def _sdist_of(filename: str, project: NormalizedName) -> bool:
    """``{project}-{digit}…``: the digit tells ``foo-1.zip`` from ``foo-bar-1.zip``."""
    return any(
        normalize(filename[: dash.start()]) == project
        for dash in re.finditer(r"-(?=v?\d)", filename)
    )


def _hashes(claim: object) -> dict[str, str]:
    if claim is None:
        return {}
    if not isinstance(claim, dict):
        raise InvalidRequest("hashes are not an object")
    found = {}
    for name, value in sorted(claim.items()):
        digits = HASH_DIGITS.get(name.lower())
        if digits is None:
            continue
        lower = value.lower() if isinstance(value, str) else ""
        if len(lower) != digits or not _HEX.fullmatch(lower):
            raise InvalidRequest(f"malformed {name.lower()}")
        found[name.lower()] = lower
    return found


def _url(claim: object) -> str:
    """An absolute URL in ASCII, without fragment and without credentials.

    Relative links inherit the credentials of an upstream's URL, and the log keeps no secret.
    """
    if not isinstance(claim, str) or len(claim) > _MAX_URL:
        raise InvalidRequest("no usable URL")
    try:
        parts = urlsplit(claim)
        host = parts.netloc.rpartition("@")[2]
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not host.isascii() or not host.isprintable() or " " in host:
        raise InvalidRequest("no usable URL")
    bare = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    return quote(bare, safe=_URL_SAFE)


def _requires_python(claim: object) -> str | None:
    if claim is None:
        return None
    if not isinstance(claim, str) or len(claim) > _MAX_REQUIRES_PYTHON:
        raise InvalidRequest("malformed requires-python")
    return claim.translate(_CONTROL).strip() or None


def _yanked(claim: object) -> str | None:
    if claim is None or claim is False or claim == "":
        return None
    if claim is True:
        return ""
    reason = read_text(claim)
    if reason is None:
        raise InvalidRequest("yanked is neither a truth value nor a reason")
    return reason


def _size(claim: object) -> int | None:
    return claim if type(claim) is int and 0 <= claim < _MAX_SIZE else None


def _metadata_digest(claim: object) -> str | None:
    """Only a sha256 counts: what cannot be checked must not be advertised (standards M1, M2)."""
    digest = claim.get("sha256") if isinstance(claim, dict) else None
    lower = digest.lower() if isinstance(digest, str) else ""
    return lower if SHA256.fullmatch(lower) else None


def _provenance(claim: object) -> str | None:
    try:
        return _url(claim)
    except InvalidRequest:
        return None
