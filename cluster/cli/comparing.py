"""The four comparisons of `pymirror verify`, between two nodes that answer over HTTP."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urljoin

from attrs import define

from cluster.cli.asking import NodeAnswers, NotAdmitted
from cluster.protocol import PROJECTS_PATH, STATE_PATH

Told = Callable[[int, int], None]
"""Hears of progress: how much is done, of how much."""

_TRIES = 20
_PAUSE_SECONDS = 0.5
_MOST_DIFFERENCES = 1_000
_FORMATS = ("text/html", "application/vnd.pypi.simple.v1+json")


class Trouble(Exception):
    """It could not be found out whether the nodes are equal."""


class OtherTables(Trouble):
    """Nodes of two versions: their rows cannot be compared, but what they serve can."""


class Difference(Exception):
    """They are not; `what` says where, in words."""

    def __init__(self, what: list[str]) -> None:
        super().__init__(what[0])
        self.what = what


@define
class Pair:
    """The two nodes, and how many projects are looked at (None: all)."""

    asking: NodeAnswers
    one: str
    other: str
    sample: int | None

    def json(self, node: str, path: str) -> dict[str, Any]:
        """A JSON document of a node; raises Trouble, NotAdmitted."""
        answer = self.asking.ask("GET", node + path)
        if answer.status == HTTPStatus.UNAUTHORIZED:
            raise NotAdmitted(f"{node}{path} answers 401: {answer.message}")
        if answer.status != 200 or not answer.values:
            raise Trouble(f"{node}{path} answers {answer.status} {answer.message}")
        return answer.values

    def projects(self) -> list[tuple[str, str]]:
        """(index, project) pairs that the first node holds, as many as are wanted, by chance."""
        found: list[tuple[str, str]] = []
        after, seen = "", 0
        while True:
            page = self.json(self.one, f"{PROJECTS_PATH}?after={quote(after)}")["projects"]
            for index, project in page:
                seen += 1
                if self.sample is None or len(found) < self.sample:
                    found.append((index, project))
                elif (at := random.randrange(seen)) < self.sample:
                    found[at] = (index, project)
            if not page:
                return sorted(found)
            after = " ".join(page[-1])


def compare_log(pair: Pair, told: Told) -> dict[str, Any]:
    """Level 1: the shorter log is a beginning of the longer: 32 bytes prove all entries equal."""
    statuses = [(node, pair.json(node, "/+status")) for node in (pair.one, pair.other)]
    identities = [status["log_identity"] for _, status in statuses]
    if identities[0] != identities[1]:
        raise Difference([f"the nodes hold different logs: {identities}"])
    (_, short), (node, long) = sorted(statuses, key=lambda one: int(one[1]["serial"]))
    size, behind = int(short["serial"]), int(long["serial"]) - int(short["serial"])
    root = base64.b64encode(pair.asking.root_at(node, size)).decode()
    if root != short["root"]:
        raise Difference([f"the roots of the first {size} entries differ"])
    return {"entries": size, "entries behind": behind}


def compare_state(pair: Pair, told: Told) -> dict[str, Any]:
    """Level 2: what the entries were turned into, bucket by bucket."""
    one, other = _at_one_serial(pair, STATE_PATH)
    versions = one.get("schema"), other.get("schema")
    if versions[0] != versions[1]:
        raise OtherTables(f"the nodes' tables are of versions {versions[0]} and {versions[1]}")
    names = sorted(one["buckets"].keys() | other["buckets"].keys())
    wrong = [n for n in names if one["buckets"].get(n) != other["buckets"].get(n)]
    found: list[str] = []
    for at, name in enumerate(wrong):
        told(at, len(wrong))
        mine, theirs = _at_one_serial(pair, f"{STATE_PATH}/{name}")
        keys = sorted(mine["keys"].keys() | theirs["keys"].keys())
        found += [
            f"the state of {key}"
            for key in keys
            if mine["keys"].get(key) != theirs["keys"].get(key)
        ]
    if found:
        raise Difference(found[:_MOST_DIFFERENCES])
    return {"buckets": len(names), "serial": one["serial"]}


def _at_one_serial(pair: Pair, path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    for _ in range(_TRIES):
        one, other = pair.json(pair.one, path), pair.json(pair.other, path)
        if one["serial"] == other["serial"]:
            return one, other
        time.sleep(_PAUSE_SECONDS)
    raise Trouble("the nodes did not come to one serial while they were asked")


def compare_pages(pair: Pair, told: Told) -> dict[str, Any]:
    """Level 3: project pages as they are served, byte for byte, in both formats."""
    projects, found = pair.projects(), list[str]()
    for at, (index, project) in enumerate(projects):
        told(at, len(projects))
        for accept in _FORMATS:
            path = f"/{index}/+simple/{project}/"
            if not _same_page(pair, path, accept):
                found.append(f"the page {path} as {accept}")
        if len(found) >= _MOST_DIFFERENCES:
            break
    if found:
        raise Difference(found)
    return {"pages": len(projects) * len(_FORMATS)}


def _same_page(pair: Pair, path: str, accept: str) -> bool:
    for _ in range(_TRIES):
        pages = [pair.asking.read(node + path, accept=accept) for node in (pair.one, pair.other)]
        if pages[0] == pages[1]:
            return True
        # One of them may be a few milliseconds behind.
        serials = [pair.json(node, "/+status")["serial"] for node in (pair.one, pair.other)]
        if serials[0] == serials[1]:
            return _again(pair, path, accept)
        time.sleep(_PAUSE_SECONDS)
    return False


def _again(pair: Pair, path: str, accept: str) -> bool:
    one, other = (pair.asking.read(n + path, accept=accept) for n in (pair.one, pair.other))
    return one == other


def compare_files(pair: Pair, told: Told) -> dict[str, Any]:
    """Level 4: the bytes of files against the digests in the pages, on both nodes."""
    projects, found, count, size = pair.projects(), list[str](), 0, 0
    for at, (index, project) in enumerate(projects):
        told(at, len(projects))
        for file in _files(pair, index, project):
            expected = file.get("hashes", {}).get("sha256")
            if expected is None:
                continue
            for node in (pair.one, pair.other):
                digest, length = pair.asking.digest(
                    urljoin(f"{node}/{index}/+simple/{project}/", file["url"])
                )
                count, size = count + 1, size + length
                if digest != expected:
                    found.append(f"{file['filename']} on {node}: {digest or 'not served'}")
    if found:
        raise Difference(found[:_MOST_DIFFERENCES])
    return {"files": count, "bytes": size}


def _files(pair: Pair, index: str, project: str) -> list[dict[str, Any]]:
    path = f"/{index}/+simple/{project}/"
    page = pair.asking.read(pair.one + path, accept=_FORMATS[1])
    try:
        files: list[dict[str, Any]] = json.loads(page or b"")["files"]
    except (ValueError, KeyError, TypeError):
        raise Trouble(f"{pair.one}{path} is no page") from None
    return files
