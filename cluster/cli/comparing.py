"""The four comparisons of `pymirror verify`, between two nodes that answer over HTTP."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote, urljoin

from attrs import define

from cluster.cli.asking import LONG_SECONDS, SECONDS, NodeAnswers, NotAdmitted
from cluster.protocol import PROJECTS_PATH, STATE_PATH

T = TypeVar("T")
Told = Callable[[int, int], None]
"""Hears of progress: how much is done, of how much."""

_TRIES = 20
_SURE = 2
_PAUSE_SECONDS = 0.5
# A node waits 5 s for a serial. Who misses the moment in which both are at one tries again.
_WAITS = 4
_MOMENTS = 500
_FURTHEST = 8
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
    read: Callable[[int], None] = lambda size: None
    """Hears of the bytes of files that were read, and may wait."""

    def both(self, question: Callable[[str], T]) -> tuple[T, T]:
        """What both nodes answer at the same time; raises what the question raises."""
        with ThreadPoolExecutor(2) as pool:
            one, other = pool.map(question, (self.one, self.other))
        return one, other

    def serials(self) -> tuple[int, int]:
        """How far both are; raises Trouble, NotAdmitted."""
        return self.both(lambda node: int(self.json(node, "/+status")["serial"]))

    def json(self, node: str, path: str, seconds: float = SECONDS) -> dict[str, Any]:
        """A JSON document of a node, which may take so long; raises Trouble, NotAdmitted."""
        answer = self.asking.ask("GET", node + path, seconds=seconds)
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
    one, other = _at_one_serial(pair, STATE_PATH, "buckets")
    versions = one.get("schema"), other.get("schema")
    if versions[0] != versions[1]:
        raise OtherTables(f"the nodes' tables are of versions {versions[0]} and {versions[1]}")
    names = sorted(one["buckets"].keys() | other["buckets"].keys())
    wrong = [n for n in names if one["buckets"].get(n) != other["buckets"].get(n)]
    found: list[str] = []
    for at, name in enumerate(wrong):
        told(at, len(wrong))
        mine, theirs = _at_one_serial(pair, f"{STATE_PATH}/{name}", "keys")
        keys = sorted(mine["keys"].keys() | theirs["keys"].keys())
        found += [
            f"the state of {key}"
            for key in keys
            if mine["keys"].get(key) != theirs["keys"].get(key)
        ]
    if found:
        raise Difference(found[:_MOST_DIFFERENCES])
    return {"buckets": len(names), "serial": one["serial"]}


def _at_one_serial(pair: Pair, path: str, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both nodes say under `key` of their states at one serial.

    They are asked for a serial that is yet to come on both, some entries ahead where many are
    written: each answers in the moment in which it is there, if it passes through that one.
    """
    at, ahead, waits = max(pair.serials()), 0, 0
    for _ in range(_MOMENTS):
        wanted = at + ahead
        asked = f"{path}?at={wanted}"
        one, other = pair.both(partial(pair.json, path=asked, seconds=LONG_SECONDS))
        at, least = max(one["serial"], other["serial"]), min(one["serial"], other["serial"])
        if at == least and key in one and key in other:
            return one, other
        if least < wanted:  # nothing was written that long, or one node does not follow
            waits, ahead = waits + 1, 0
            if waits == _WAITS:
                raise Trouble(f"one node stays at serial {least}, the other one is at {at}")
        else:
            ahead = min(ahead + 1, _FURTHEST)
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
    """Whether both serve the same page of one state; raises Trouble when they come to none."""

    def page(node: str) -> tuple[bytes | None, str | None]:
        return pair.asking.page(node + path, accept)

    one, other = pair.both(page)
    seen = 0
    for _ in range(_TRIES):
        if one[0] == other[0]:
            return True
        before = pair.serials()
        one, other = pair.both(page)
        # Twice: an option of the index, which is no change to the page, may be on its way.
        same_change = one[1] is not None and one[1] == other[1]
        seen += same_change or (before[0] == before[1] and pair.serials() == before)
        if seen == _SURE:
            return one[0] == other[0]
        time.sleep(_PAUSE_SECONDS)
    raise Trouble(f"the page {path} was never of one state on both nodes")


def compare_files(pair: Pair, told: Told) -> dict[str, Any]:
    """Level 4: the bytes of files against the digests in the pages, on both nodes."""
    projects, found, count, size = pair.projects(), list[str](), 0, 0
    for at, (index, project) in enumerate(projects):
        told(at, len(projects))
        for file in _files(pair, index, project):
            if "sha256" not in file.get("hashes", {}):
                continue
            for node in (pair.one, pair.other):
                url = urljoin(f"{node}/{index}/+simple/{project}/", file["url"])
                digest, length = _digest(pair, url)
                count, size = count + 1, size + length
                if digest != file["hashes"]["sha256"] and _is_listed(pair, index, project, file):
                    found.append(f"{file['filename']} on {node}: {digest or 'not served'}")
    if found:
        raise Difference(found[:_MOST_DIFFERENCES])
    return {"files": count, "bytes": size}


def _digest(pair: Pair, url: str) -> tuple[str | None, int]:
    for _ in range(1 + _SURE):
        digest, size = pair.asking.digest(url, pair.read)
        serials = pair.serials() if digest is None else (0, 0)
        if serials[0] == serials[1]:
            break
        # The node may be a few milliseconds behind the page that lists it.
        time.sleep(_PAUSE_SECONDS)
    return digest, size


def _is_listed(pair: Pair, index: str, project: str, file: dict[str, Any]) -> bool:
    return any(one["url"] == file["url"] for one in _files(pair, index, project))


def _files(pair: Pair, index: str, project: str) -> list[dict[str, Any]]:
    path = f"/{index}/+simple/{project}/"
    page = pair.asking.read(pair.one + path, accept=_FORMATS[1])
    try:
        files: list[dict[str, Any]] = json.loads(page or b"")["files"]
    except (ValueError, KeyError, TypeError):
        raise Trouble(f"{pair.one}{path} is no page") from None
    return files
