"""What an upstream's page changes against what the log last said (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import evolve

from cluster.log.changes import Change, Kind, in_parts
from cluster.model import DistributionFile, ProjectStatus
from cluster.names import IndexName, NormalizedName
from cluster.upstream.parse import ParsedProject

# A name has at most 255 ASCII characters, and an entry 65,535 bytes.
NAMES_PER_ENTRY = 250


def project_delta(
    index: IndexName,
    project: NormalizedName,
    known: Sequence[DistributionFile],
    facts: tuple[ProjectStatus, list[str]] | None,
    page: ParsedProject,
) -> list[Change]:
    """The changes that bring a mirrored project to what `page` says; empty when nothing is new.

    `known` and `facts` are what the state holds (None: the project is new here). What we
    computed ourselves of a file that upstream still says too little about is kept.
    """
    before = {file.filename: file for file in known}
    wanted = {file.filename: keep_computed(before.get(file.filename), file) for file in page.files}
    items: list[tuple[str, Any]] = [
        ("files", file.to_json()) for name, file in wanted.items() if before.get(name) != file
    ]
    items += [("removed", name) for name in before if name not in wanted]
    status, bare = facts or (ProjectStatus(), [])
    items += [("bare_added", version) for version in sorted(set(page.bare_versions) - set(bare))]
    items += [("bare_removed", version) for version in sorted(set(bare) - set(page.bare_versions))]
    common = {} if page.status == status else {"status": _status_json(page.status)}
    if not items and not common and facts is not None:
        return []
    return in_parts(Kind.MIRROR_PROJECT, {"index": index, "project": project, **common}, items)


def keep_computed(known: DistributionFile | None, file: DistributionFile) -> DistributionFile:
    """A file as upstream describes it, with what we computed of the same URL's bytes before."""
    if known is None or known.url != file.url or file.sha256 is not None:
        return file
    if known.origin.get("sha256") != "computed":
        return file
    return evolve(
        file,
        hashes={**file.hashes, "sha256": known.hashes["sha256"]},
        size=file.size if file.size is not None else known.size,
        origin={**file.origin, **known.origin},
    )


def computed(file: DistributionFile, sha256: str, size: int) -> DistributionFile:
    """A file whose bytes have been fetched once: its digest and size are known from now on."""
    origin: dict[str, str] = {**file.origin, "sha256": "computed"}
    if file.size is None:
        origin["size"] = "computed"
    return evolve(file, hashes={**file.hashes, "sha256": sha256}, size=size, origin=origin)


def _status_json(status: ProjectStatus) -> Mapping[str, str]:
    if status.reason is None:
        return {"status": status.status}
    return {"status": status.status, "reason": status.reason}


def listing_changes(
    index: IndexName, added: Iterable[str], removed: Iterable[str]
) -> Iterator[Change]:
    """The delta of an upstream's project list, in entries of bounded size.

    Unlike a project's delta these are not one group: each name stands for itself, and half of
    700,000 names is as true as all of them.
    """
    for kind, names in (("added", added), ("removed", removed)):
        batch: list[str] = []
        for name in names:
            batch.append(name)
            if len(batch) == NAMES_PER_ENTRY:
                yield Change(Kind.MIRROR_LISTING, {"index": index, kind: batch})
                batch = []
        if batch:
            yield Change(Kind.MIRROR_LISTING, {"index": index, kind: batch})
