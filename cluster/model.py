"""The values of an index: users, indexes, projects, distribution files (pure).

Values are frozen and checked at birth, so code that holds one need not doubt it. The
vocabulary is that of the simple API (PEP 503, 592, 658, 691, 700, 714, 740, 792) and, for
index options, devpi's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import asdict, field, frozen
from attrs.validators import ge, matches_re, optional

from cluster.errors import InvalidRequest
from cluster.names import IndexName, NormalizedName, is_filename

_HEX = re.compile(r"[0-9a-f]{8,128}")
SHA256 = re.compile(r"[0-9a-f]{64}")


def _filename(_: object, __: object, value: str) -> None:
    if not is_filename(value):
        raise InvalidRequest(f"{value!r} cannot be the name of a distribution file")


def _hashes(_: object, __: object, value: object) -> None:
    # Pages of thousands of files are made of these: attrs' own validators for mappings cost more
    # than all else of it.
    if not isinstance(value, Mapping):
        raise TypeError("hashes are a mapping")
    for name, digest in value.items():
        if not isinstance(name, str) or not isinstance(digest, str):
            raise TypeError(f"{name!r}: {digest!r} is not the digest of a hash")
        if not _HEX.fullmatch(digest):
            raise ValueError(f"{name}: {digest!r} is not lower-case hex of a digest")


@frozen
class DistributionFile:
    """One distribution file of a project, with all that is known about it.

    `hashes` maps hash names of hashlib to lower-case hex (may be empty, PEP 691). `size` is in
    bytes. `upload_time` is RFC 3339 in UTC with ``Z`` (PEP 700). `yanked` is None, or the reason,
    which may be empty (PEP 592). `core_metadata` is the sha256 of the file's METADATA (PEP 714).
    `provenance` is an absolute URL (PEP 740); `attestations` is the sha256 of the provenance object
    that we keep ourselves. `url` is where an upstream keeps the file.
    `origin` says for a fact where it comes from when that is not the default (an upstream's
    word for mirrored files, the uploader's for hosted ones): ``computed``, ``first-seen``.
    """

    filename: str = field(validator=_filename)
    version: str | None = None
    hashes: Mapping[str, str] = field(factory=dict, validator=_hashes)
    size: int | None = field(default=None, validator=optional(ge(0)))
    url: str | None = None
    requires_python: str | None = None
    upload_time: str | None = None
    yanked: str | None = None
    core_metadata: str | None = field(default=None, validator=optional(matches_re(SHA256)))
    provenance: str | None = None
    attestations: str | None = field(default=None, validator=optional(matches_re(SHA256)))
    origin: Mapping[str, str] = field(factory=dict)

    @property
    def sha256(self) -> str | None:
        """The content's name in the file store, or None while only its URL is known."""
        return self.hashes.get("sha256")

    def to_json(self) -> dict[str, Any]:
        """The facts that are known, as log entries and state rows hold them."""
        return {
            key: dict(value) if isinstance(value, Mapping) else value
            for key, value in asdict(self, recurse=False).items()
            if value is not None and value != {}
        }


@frozen
class ProjectStatus:
    """PEP 792: ``active``, ``archived``, ``quarantined`` or ``deprecated``, and why."""

    status: str = "active"
    reason: str | None = None


@frozen
class ProjectPage:
    """A project as one index (or a chain of bases) shows it: what the simple API renders.

    `bare_versions` are versions that an upstream lists without any file (PEP 700). `serial` is
    that of the last change to anything on the page.
    """

    name: NormalizedName
    files: tuple[DistributionFile, ...]
    bare_versions: tuple[str, ...] = ()
    status: ProjectStatus = ProjectStatus()
    serial: int = 0


@frozen
class User:
    """A user; `password` is the sha256 of the node-only blob with the hash, None while empty."""

    name: str
    password: str | None = field(default=None, validator=optional(matches_re(SHA256)))
    options: Mapping[str, Any] = field(factory=dict)


@frozen
class HostedIndex:
    """An index for uploads (devpi's type ``stage``). `options` holds what has no field here.

    `acl_upload` is the owner alone unless said otherwise. `acl_pkg_read` (who may read) and
    `acl_admin` (who may change the index beside its owner) are ours. `secrets` is the sha256 of
    the node-only blob with the passwords of its triggers, None while there are none.
    """

    name: IndexName
    bases: tuple[IndexName, ...] = ()
    acl_upload: tuple[str, ...] = field()
    acl_toxresult_upload: tuple[str, ...] = (":ANONYMOUS:",)
    acl_pkg_read: tuple[str, ...] = (":ANONYMOUS:",)
    acl_admin: tuple[str, ...] = ()
    volatile: bool = True
    mirror_whitelist: tuple[str, ...] = ()
    mirror_whitelist_inheritance: str = "intersection"
    options: Mapping[str, Any] = field(factory=dict)
    secrets: str | None = field(default=None, validator=optional(matches_re(SHA256)))

    @acl_upload.default
    def _owner(self) -> tuple[str, ...]:
        return (self.name.partition("/")[0],)


@frozen
class MirrorIndex:
    """An index that mirrors an upstream on demand (devpi's type ``mirror``).

    Without `mirror_url` it has nothing until one is set. `mirror_cache_expiry` and `max_stale`
    are ages in seconds; see `docs/architecture.md`, Mirroring, for what happens at each.
    `mirror_web_url_fmt` is the link to a project's page upstream, with ``{name}``.
    `mirror_allow_mass_removal` (ours) takes over a project list that lost most of its names;
    without it that is taken for a fault of the upstream. `secrets` is
    the sha256 of the node-only blob with the upstream's password, None while there is none.
    """

    name: IndexName
    mirror_url: str | None = field(default=None, validator=optional(matches_re(r"https?://.+")))
    volatile: bool = True
    mirror_cache_expiry: int = field(default=1800, validator=ge(0))
    max_stale: int = field(default=3600, validator=ge(0))
    mirror_web_url_fmt: str | None = None
    mirror_use_external_urls: bool = False
    mirror_no_project_list: bool = False
    mirror_ignore_serial_header: bool = False
    mirror_provides_core_metadata: bool = False
    mirror_allow_mass_removal: bool = False
    acl_pkg_read: tuple[str, ...] = (":ANONYMOUS:",)
    acl_admin: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(factory=dict)
    secrets: str | None = field(default=None, validator=optional(matches_re(SHA256)))


Index = HostedIndex | MirrorIndex
