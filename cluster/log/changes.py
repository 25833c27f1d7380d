"""The kinds of change and their canonical bytes (pure).

An entry is one line of canonical JSON: UTF-8, keys sorted, no white space, no floats. The
stored bytes *are* the entry: they are hashed, relayed and kept as they are, never re-encoded.
Every entry has ``serial, epoch, time, actor, kind, format`` beside the kind's own payload.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

import orjson
from attrs import frozen

from cluster.errors import InvalidRequest, LogError, UnknownFormat

MAX_ENTRY_BYTES: Final = 65_535  # the length prefix of C2SP tlog-tiles has 16 bits
_MAX_PARTS: Final = 256
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_MAX_NUMBER: Final = 2**63 - 1  # what a database column holds


class Kind(StrEnum):
    """What can happen; a verb in the past. A follower that meets another kind stops."""

    EPOCH_STARTED = "epoch.started"
    USER_SET = "user.set"
    USER_REMOVED = "user.removed"
    INDEX_SET = "index.set"
    INDEX_REMOVED = "index.removed"
    PROJECT_REGISTERED = "project.registered"
    PROJECT_REMOVED = "project.removed"
    PROJECT_STATUS = "project.status"
    RELEASE_SET = "release.set"
    RELEASE_REMOVED = "release.removed"
    FILE_ADDED = "file.added"
    FILE_REMOVED = "file.removed"
    FILE_YANKED = "file.yanked"
    DOCS_SET = "docs.set"
    TOXRESULT_ADDED = "toxresult.added"
    STAGE_PUBLISHED = "stage.published"
    STAGE_DROPPED = "stage.dropped"
    TOKEN_ADDED = "token.added"  # noqa: S105 (a kind of change)
    TOKEN_REMOVED = "token.removed"  # noqa: S105
    NODE_KEY = "node.key"
    NODE_REVOKED = "node.revoked"
    MIRROR_PROJECT = "mirror.project"
    MIRROR_LISTING = "mirror.listing"


FORMAT: Final[Mapping[Kind, int]] = dict.fromkeys(Kind, 1)
"""The newest format of each kind's payload that this program understands."""

_RESERVED = frozenset({"serial", "epoch", "time", "actor", "kind", "format"})


@frozen
class Change:
    """Something to be recorded: a kind and its payload (JSON values without floats)."""

    kind: Kind
    payload: Mapping[str, Any]


@frozen
class Entry:
    """A recorded change. `raw` is the entry; everything else was read from it.

    `time` is UTC with microseconds and ``Z``: information only, nothing is decided by it.
    """

    serial: int
    epoch: int
    time: str
    actor: str
    kind: Kind
    payload: Mapping[str, Any]
    raw: bytes

    @property
    def ends_group(self) -> bool:
        """Whether readers may stop behind this entry: it is whole, or a group's last part."""
        return bool(self.payload.get("part", 1) == self.payload.get("parts", 1))


def encode(change: Change, *, serial: int, epoch: int, time: str, actor: str) -> Entry:
    """Give a change its place in the log.

    Raises InvalidRequest when the entry would exceed MAX_ENTRY_BYTES or holds a float: both
    come from what somebody sent us, and must not stop the log.
    """
    head = {
        "serial": serial, "epoch": epoch, "time": time, "actor": actor,
        "kind": change.kind.value, "format": FORMAT[change.kind],
    }  # fmt: skip
    if _RESERVED & change.payload.keys():
        raise ValueError(f"a payload uses a reserved key: {sorted(change.payload)}")
    try:
        _refuse_floats(change.payload)
        raw = orjson.dumps({**change.payload, **head}, option=orjson.OPT_SORT_KEYS)
    except (TypeError, RecursionError, orjson.JSONEncodeError) as error:
        raise InvalidRequest(f"this cannot be recorded: {error}") from None
    if len(raw) > MAX_ENTRY_BYTES:
        raise InvalidRequest(
            f"this change takes {len(raw)} bytes; a log entry holds at most {MAX_ENTRY_BYTES}"
        )
    return Entry(serial, epoch, time, actor, change.kind, change.payload, raw)


def decode(raw: bytes) -> Entry:
    """Read an entry's bytes; raises LogError for garbage, UnknownFormat for news to us."""
    if len(raw) > MAX_ENTRY_BYTES:
        raise LogError(f"an entry of {len(raw)} bytes")
    try:
        values = orjson.loads(raw)
        head = {key: values.pop(key) for key in _RESERVED}
    except (orjson.JSONDecodeError, KeyError, AttributeError, TypeError):
        raise LogError("an entry is not a JSON object with the fields of one") from None
    kind = known_kind(head["kind"], head["format"])
    for number, least in ((head["serial"], 1), (head["epoch"], 0)):
        if type(number) is not int or not least <= number <= _MAX_NUMBER:
            raise LogError("an entry's serial or epoch is not a number")
    if not isinstance(head["actor"], str) or not _TIME.fullmatch(str(head["time"])):
        raise LogError("an entry's actor or time is malformed")
    return Entry(head["serial"], head["epoch"], head["time"], head["actor"], kind, values, raw)


def known_kind(kind: object, format_number: object) -> Kind:
    """The kind of an entry's head; raises UnknownFormat for news to us."""
    try:
        known = Kind(str(kind))
    except ValueError:
        raise UnknownFormat(f"a change of kind {kind!r} is unknown: upgrade this node") from None
    if type(format_number) is not int or not 1 <= format_number <= FORMAT[known]:
        raise UnknownFormat(f"format {format_number!r} of {kind} is unknown: upgrade this node")
    return known


def _refuse_floats(value: object) -> None:
    if isinstance(value, float):
        raise InvalidRequest("numbers with a fraction cannot be recorded; write them as text")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InvalidRequest("keys must be text")
            _refuse_floats(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_floats(inner)


def in_parts(
    kind: Kind, common: Mapping[str, Any], items: Iterable[tuple[str, Any]]
) -> list[Change]:
    """Split a change that may be large into numbered parts that fit into entries.

    `items` are (list name, value) pairs; each part has lists of those under their names, beside
    `common`. The parts are appended in one transaction, and no reader sees half of them.
    Raises InvalidRequest for more parts than a page of the log can hold.
    """
    budget = MAX_ENTRY_BYTES - 2_048 - len(orjson.dumps(common))
    parts: list[dict[str, list[Any]]] = [{}]
    used = 0
    for name, value in items:
        size = len(orjson.dumps(value)) + 1
        if used + size > budget and used:
            parts.append({})
            used = 0
        parts[-1].setdefault(name, []).append(value)
        used += size
    if len(parts) > _MAX_PARTS:
        raise InvalidRequest(f"a change of {len(parts)} parts is more than the log takes at once")
    numbering = [
        {} if len(parts) == 1 else {"part": number, "parts": len(parts)}
        for number in range(1, len(parts) + 1)
    ]
    return [
        Change(kind, {**common, **part, **number})
        for part, number in zip(parts, numbering, strict=True)
    ]
