"""What a node recorded and another history replaced, as things to send to the new primary.

`cluster.rollback` keeps such entries in files. What they name is read from the folder of the node
that kept them: bytes from its file store, password hashes and credentials from its secrets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import orjson
from attrs import define, field, frozen

from cluster.auth.acl import ROOT
from cluster.auth.passwords import LOCKED, hash_password
from cluster.durable import SecretBlobs
from cluster.errors import InvalidRequest
from cluster.importing.dump import (
    DOCS,
    RELEASE_FILE,
    TOX_RESULT,
    Dump,
    DumpedFile,
    DumpedIndex,
    DumpedProject,
    DumpedRelease,
    DumpedUser,
    Thing,
)
from cluster.importing.options import bases_first
from cluster.log.changes import Entry, Kind, decode
from cluster.names import display_version, project_name, version_from_filename

_BY_HAND: Final[Mapping[Kind, str]] = {
    Kind.USER_REMOVED: "remove the user: devpi user --delete {user}",
    Kind.INDEX_REMOVED: "remove the index: devpi index --delete {index}",
    Kind.PROJECT_REMOVED: "remove the project: devpi remove --index {index} {project}",
    Kind.RELEASE_REMOVED: "remove the release: devpi remove --index {index} {project}=={version}",
    Kind.FILE_REMOVED: "remove {filename} from {index}: DELETE its +f link",
    Kind.STAGE_PUBLISHED: "publish the stage: POST /{index}/+stages/{stage}/publish",
    Kind.STAGE_DROPPED: "drop the stage: DELETE /{index}/+stages/{stage}",
    Kind.TOKEN_ADDED: "give {user} another token in place of {token}: pymirror token create",
    Kind.TOKEN_REMOVED: "revoke the token: pymirror token revoke {token}",
    Kind.NODE_KEY: "let the node {node} join again: pymirror node invite",
    Kind.NODE_REVOKED: "revoke the node: pymirror node revoke {node}",
}
_REMOVED: Final = (
    Kind.INDEX_REMOVED, Kind.PROJECT_REMOVED, Kind.RELEASE_REMOVED, Kind.FILE_REMOVED,
)  # fmt: skip
_PLACE: Final = ("index", "project", "version")
_URLS: Final = {
    "mirror_credentials": "mirror_url", "trigger_credentials": "uploadtrigger_jenkins",
    "webhook_credentials": "webhook_url",
}  # fmt: skip


@frozen
class NodeFolder(Dump):
    """The state folder of the node that kept the entries, which holds what they name."""

    def open_path(self, file: DumpedFile) -> Path:
        """Where the file store keeps a file's bytes; raises InvalidRequest if it does not."""
        digest = file.hashes["sha256"]
        path = self.root / "files" / "sha256" / digest[:2] / digest
        if not path.is_file():
            raise InvalidRequest(f"its bytes are not in {self.root / 'files'}")
        return path

    def secret(self, name: str) -> bytes:
        """A node-only blob; empty when it is not here."""
        try:
            return SecretBlobs(self.root / "secrets").get(name)
        except FileNotFoundError:
            return b""


@define
class Orphans:
    """What the entries come to: later ones replace or remove what earlier ones added.

    `passwords` names each user's blob; `with_secrets` are indexes that have credentials. `by_hand`
    says what cannot be sent, and what to do; `mirrored` counts entries of mirrors, which are
    learned from their upstreams again.
    """

    _folder: NodeFolder
    users: dict[str, DumpedUser] = field(factory=dict)
    passwords: dict[str, str | None] = field(factory=dict)
    indexes: dict[str, DumpedIndex] = field(factory=dict)
    projects: dict[tuple[str, ...], DumpedProject] = field(factory=dict)
    releases: dict[tuple[str, ...], DumpedRelease] = field(factory=dict)
    files: dict[tuple[str, ...], DumpedFile] = field(factory=dict)
    with_secrets: set[str] = field(factory=set)
    by_hand: list[str] = field(factory=list)
    mirrored: int = 0

    def read(self, lines: Iterable[bytes]) -> None:
        """Take the entries of a file; raises LogError for what is none, or is too new."""
        # After a crash while they were taken back, the same ones were written once more.
        for line in dict.fromkeys(line.rstrip(b"\n") for line in lines):
            self._take(decode(line))

    def batches(self) -> Iterator[tuple[Thing, ...]]:
        """All things in an order in which they can be added, those together that may be sent so.

        Root comes last: its password may be the one that they are sent with.
        """
        others = (user for name, user in self.users.items() if name != ROOT)
        yield tuple(others)
        options = {name: index.options for name, index in self.indexes.items()}
        yield from ((self.indexes[name],) for name in bases_first(options))
        yield (*self.projects.values(), *self.releases.values())
        yield tuple(file for file in self.files.values() if file.kind != TOX_RESULT)
        yield tuple(file for file in self.files.values() if file.kind == TOX_RESULT)
        yield tuple(user for name, user in self.users.items() if name == ROOT)

    def _take(self, entry: Entry) -> None:
        payload, takers = entry.payload, self._takers()
        if entry.kind in (Kind.MIRROR_PROJECT, Kind.MIRROR_LISTING):
            self.mirrored += 1
        elif "stage" in payload and entry.kind in takers:
            what = payload.get("file", payload.get("docs", {})).get("filename") or "the metadata"
            self._later(
                f"upload {what} of {payload['project']} to the stage {payload['stage']} of "
                f"{payload['index']}"
            )
        elif entry.kind in takers:
            takers[entry.kind](payload)
        elif entry.kind in _BY_HAND:
            self._later(_BY_HAND[entry.kind].format(**payload))
            self._forget(entry.kind, payload)

    def _takers(self) -> Mapping[Kind, Callable[[Mapping[str, Any]], None]]:
        return {
            Kind.USER_SET: self._user, Kind.INDEX_SET: self._index,
            Kind.PROJECT_REGISTERED: self._project, Kind.RELEASE_SET: self._release,
            Kind.FILE_ADDED: self._file, Kind.DOCS_SET: self._docs,
            Kind.TOXRESULT_ADDED: self._tox_result, Kind.FILE_YANKED: self._yanked,
            Kind.PROJECT_STATUS: self._status,
        }  # fmt: skip

    def _later(self, what: str) -> None:
        if what not in self.by_hand:
            self.by_hand.append(what)

    def _user(self, payload: Mapping[str, Any]) -> None:
        name, blob = payload["user"], payload.get("password")
        stored = hash_password("") if blob is None else self._folder.secret(blob).decode()
        if not stored:
            self._later(f"set a password: devpi user -m {name} password=…")
        self.users[name] = DumpedUser(name, {**payload["options"], **_hashes(stored)})
        self.passwords[name] = blob

    def _index(self, payload: Mapping[str, Any]) -> None:
        name, options = payload["index"], {**payload["options"], "type": payload["type"]}
        if payload.get("secrets"):
            blob = self._folder.secret(payload["secrets"])
            if not blob:
                self._later(f"set the passwords of {name}: devpi index {name} OPTION=…")
            self.with_secrets.add(name)
            options = _with_secrets(options, orjson.loads(blob or b"{}"))
        self.indexes[name] = DumpedIndex(name, options)

    def _project(self, payload: Mapping[str, Any]) -> None:
        key = (payload["index"], payload["project"])
        self.projects[key] = DumpedProject(payload["index"], payload["name"])

    def _release(self, payload: Mapping[str, Any]) -> None:
        key = (payload["index"], payload["project"], payload["version"])
        is_first = payload.get("part", 1) == 1
        known = {} if is_first else dict(self.releases[key].metadata)
        for name, value in payload["metadata"]:
            known[name] = known[name] + value if name in known else value
        known.setdefault("name", payload["name"])
        self.releases[key] = DumpedRelease(
            payload["index"], payload["project"], payload["version"], known
        )

    def _file(self, payload: Mapping[str, Any]) -> None:
        file = payload["file"]
        self._add(RELEASE_FILE, payload, file, file["hashes"]["sha256"], file.get("version"))
        if file.get("attestations"):
            self._later(f"give {file['filename']} on {payload['index']} its attestations again")
        if file.get("yanked") is not None:
            self._later(_yank("yank", payload["index"], file["filename"]))

    def _docs(self, payload: Mapping[str, Any]) -> None:
        docs = payload["docs"]
        self._add(DOCS, payload, docs, docs["sha256"], payload["version"])

    def _tox_result(self, payload: Mapping[str, Any]) -> None:
        result, tested = payload["result"], payload["filename"]
        version = version_from_filename(tested, project_name(payload["project"])) or "0"
        self._add(TOX_RESULT, payload, result, result["sha256"], version, tested)

    def _add(
        self, kind: str, payload: Mapping[str, Any], file: Mapping[str, Any], sha256: str,
        version: str | None, tested: str | None = None,
    ) -> None:  # fmt: skip
        index, project = payload["index"], payload["project"]
        self.files[kind, index, project, file["filename"]] = DumpedFile(
            kind, index, payload.get("name", project), version,
            f"{index}/{project}/{file['filename']}", {"sha256": sha256}, file.get("upload_time"),
            tuple(payload.get("log", ())), tested,
        )  # fmt: skip

    def _yanked(self, payload: Mapping[str, Any]) -> None:
        word = "unyank" if payload["yanked"] is None else "yank"
        for filename in payload["filenames"]:
            self._later(_yank(word, payload["index"], filename))

    def _status(self, payload: Mapping[str, Any]) -> None:
        where = f"/{payload['index']}/{payload['project']}/+status"
        self._later(f"set the status: PUT {where} {orjson.dumps(payload['status']).decode()}")

    def _forget(self, kind: Kind, payload: Mapping[str, Any]) -> None:
        """What was removed is not sent; with a version's last file its release goes too."""
        if kind is Kind.USER_REMOVED:
            self.users.pop(payload["user"], None)
        if kind is Kind.INDEX_REMOVED:
            self.indexes.pop(payload["index"], None)
        if kind not in _REMOVED:
            return
        before = self._versions()
        for key in [key for key, file in self.files.items() if _covers(payload, key, file)]:
            del self.files[key]
        emptied = before - self._versions()
        for where in list(self.releases):
            if where in emptied if kind is Kind.FILE_REMOVED else _names(payload, where):
                del self.releases[where]
        if kind in (Kind.INDEX_REMOVED, Kind.PROJECT_REMOVED):
            for place in [place for place in self.projects if _names(payload, place)]:
                del self.projects[place]

    def _versions(self) -> set[tuple[str, ...]]:
        """The index, project and version of every distribution file."""
        files = self.files.items()
        return {(*key[1:3], _version(f)) for key, f in files if key[0] == RELEASE_FILE}


def _names(payload: Mapping[str, Any], where: tuple[str, ...]) -> bool:
    """Whether a removal is of this index, or this project or version of it."""
    return all(payload.get(f, v) == v for f, v in zip(_PLACE, where, strict=False))


def _covers(payload: Mapping[str, Any], key: tuple[str, ...], file: DumpedFile) -> bool:
    if not _names(payload, (*key[1:3], _version(file))):
        return False
    return payload.get("filename", file.filename) in (file.filename, file.tested)


def _version(file: DumpedFile) -> str:
    return display_version(file.version or "")


def _hashes(stored: str) -> dict[str, str]:
    """What a kept hash is in a dump of devpi, which is how it is sent."""
    if stored in ("", LOCKED):
        return {}
    kind, _, rest = stored.partition("$")
    if kind == "devpi-sha256":
        salt, _, digest = rest.partition("$")
        return {"pwhash": digest, "pwsalt": salt}
    return {"pwhash": stored}


def _with_secrets(options: dict[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
    """An index's options with its credentials in the URLs that they belong to."""
    merged = dict(options)
    for name, option in _URLS.items():
        if name in secrets and option in merged:
            user, _, password = secrets[name].partition(":")
            scheme, _, rest = str(merged[option]).partition("://")
            pair = f"{quote(user, safe='')}:{quote(password, safe='')}"
            merged[option] = f"{scheme}://{pair}@{rest}"
    if "webhook_secret" in secrets:
        merged["webhook_secret"] = secrets["webhook_secret"]
    return merged


def _yank(word: str, index: str, filename: str) -> str:
    method = "POST" if word == "yank" else "DELETE"
    return f"{word} {filename} on {index}: {method} its +f link with /+yank"
