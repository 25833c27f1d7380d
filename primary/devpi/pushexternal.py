"""Pushing a release to a server elsewhere, by the legacy upload API (devpi-api §6, Push).

The server is one that a user names: requests go to http(s) URLs without following redirects,
TLS is verified, and whoever may ask for this is `cluster.auth.acl.require_external_push`'s
affair. Nothing of the password gets into logs or answers.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlsplit

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.http import RESPONSES
from twisted.web.http_headers import Headers

from cluster.agent import Requester, Response
from cluster.clock import Clock, bounded
from cluster.errors import InvalidRequest, PymirrorError, UpstreamError
from cluster.files.store import FileStore
from cluster.state.contents import HeldFile
from cluster.threads import Runner
from cluster.upstream.client import explain, read_body
from cluster.version import __version__
from primary.devpi.pushform import Attachment, FormBody, digests_of
from primary.devpi.pushrules import Action, Release
from primary.releasemetadata import LISTS, TEXTS

_ANSWER_BYTES: Final = 256 << 10
_ANSWER_CHARACTERS: Final = 2_000
# For the answer; a server may look at a large file for a while.
_PATIENCE_SECONDS: Final = 180.0
_SLOWEST_BYTES_PER_SECOND: Final = 100_000
# Under these names the upload API takes what is stored under devpi's.
_FORM_NAMES: Final = {
    "provides_extras": "provides_extra",
    "import_names": "import_name",
    "import_namespaces": "import_namespace",
}
_FILETYPES: Final = {
    ".whl": "bdist_wheel", ".egg": "bdist_egg", ".exe": "bdist_wininst", ".msi": "bdist_msi",
    ".rpm": "bdist_rpm", ".deb": "bdist_dumb", ".dmg": "bdist_dmg",
}  # fmt: skip
# "register" was given up by the public index, and devpi-client takes this for an answer.
_NO_MORE_REGISTERING: Final = 410
_REFUSED: Final = (401, 403)


@frozen
class Destination:
    """An upload URL elsewhere, and who uploads; raises InvalidRequest for what is no such URL."""

    url: str
    username: str = ""
    password: str = field(default="", repr=False)

    def __attrs_post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            is_plain = self.url.isascii() and self.url.isprintable() and " " not in self.url
            is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and is_plain
            is_good = is_good and (parts.port is None or parts.port > 0)
        except ValueError:
            is_good = False
        if not is_good:
            raise InvalidRequest("posturl must be an http:// or https:// URL")
        if "@" in parts.netloc:
            raise InvalidRequest("posturl must not hold a user or password: send them beside it")

    @property
    def host(self) -> str:
        """Where the files go, for logs and people."""
        return urlsplit(self.url).netloc

    @property
    def authorization(self) -> str:
        """Basic credentials (RFC 7617)."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


class _Stop(Exception):
    """What follows would fail likewise, or is not wanted any more."""


@define
class ExternalPush:
    """Uploads releases elsewhere. `agent` must not follow redirects."""

    _log = Logger()

    _agent: Requester
    _clock: Clock
    _store: FileStore
    _heavy: Runner

    async def send(
        self,
        release: Release,
        to: Destination,
        *,
        register: bool,
        is_gone: Callable[[], bool] = lambda: False,
    ) -> list[Action]:
        """Upload files, then documentation; what was done, with the other server's answers.

        Every file is tried, but after a broken connection, a refused login, or once `is_gone`
        says that nobody waits, nothing more is sent. Never raises for what goes wrong there.
        """
        actions: list[Action] = []
        name, version = release.name, release.version
        try:
            if register:
                status, _ = await self._post(to, _fields(release, "submit"), None, actions)
                _note(actions, [status, "register", name, version])
            for held in release.files:
                if is_gone():
                    raise _Stop
                await self._file(release, held, to, actions)
            if release.docs is not None and not is_gone():
                await self._docs(release, to, actions)
        except _Stop:
            self._log.info(
                "push of {name} {version} to {host} ended early",
                name=name, version=version, host=to.host,
            )  # fmt: skip
        return actions

    async def _file(
        self, release: Release, held: HeldFile, to: Destination, actions: list[Action]
    ) -> None:
        file = held.file
        attachment = await self._attachment(file.sha256 or "", file.filename, actions)
        digests = await self._heavy.run(digests_of, attachment.path)
        fields = [*_fields(release, "file_upload"), *_kind(file.filename), *digests.items()]
        status, text = await self._post(to, fields, attachment, actions)
        _note(actions, [status, "upload", _relpath(release, held), text])

    async def _docs(self, release: Release, to: Destination, actions: list[Action]) -> None:
        assert release.docs is not None  # noqa: S101 (the caller has looked)
        name = f"{release.name}.zip"
        attachment = await self._attachment(release.docs.sha256, name, actions)
        status, _ = await self._post(to, _fields(release, "doc_upload"), attachment, actions)
        _note(actions, [status, "docfile", release.name])

    async def _attachment(self, sha256: str, filename: str, actions: list[Action]) -> Attachment:
        size = await self._store.size_of(sha256)
        if size is None:
            actions.append([-1, "exception on release upload:", f"{filename} is not here"])
            raise _Stop
        return Attachment(self._store.path(sha256), filename, size)

    async def _post(
        self,
        to: Destination,
        fields: list[tuple[str, str]],
        attachment: Attachment | None,
        actions: list[Action],
    ) -> tuple[int, str]:
        body = FormBody(fields, attachment, self._heavy)
        seconds = _PATIENCE_SECONDS + body.length / _SLOWEST_BYTES_PER_SECOND
        work = Deferred.fromCoroutine(self._exchange(to, body))
        try:
            return await bounded(work, seconds, self._clock)
        except Exception as error:
            what = fields[0][1].partition("_")[0]
            where = {"file": "release upload", "doc": "documentation upload"}.get(what, what)
            reason = str(error) if isinstance(error, PymirrorError) else explain(error)
            actions.append([-1, f"exception on {where}:", f"{to.host}: {reason}"])
            raise _Stop from error

    async def _exchange(self, to: Destination, body: FormBody) -> tuple[int, str]:
        headers = Headers(
            {
                "Authorization": [to.authorization],
                "Content-Type": [body.content_type],
                "User-Agent": [f"pymirror/{__version__}"],
                "Accept": ["text/plain, */*;q=0.5"],
            }
        )
        response = await self._agent.request(b"POST", to.url.encode("ascii"), headers, body)
        return response.code, await _text(response)


async def _text(response: Response) -> str:
    """What an answer says, as far as people want to read it."""
    try:
        body = await read_body(response, _ANSWER_BYTES)
    except UpstreamError:
        return "(a long answer)"
    text = body.decode("utf-8", "replace").strip()[:_ANSWER_CHARACTERS]
    # Some servers say it in the status line alone.
    phrase = bytes(getattr(response, "phrase", b"")).decode("latin-1")
    usual = RESPONSES.get(response.code, b"").decode()
    return text or (phrase if phrase != usual else "")


def is_done(action: Action) -> bool:
    """Whether the server elsewhere took it."""
    return 200 <= action[0] < 300 or action[:2] == [_NO_MORE_REGISTERING, "register"]


def _note(actions: list[Action], action: Action) -> None:
    actions.append(action)
    if action[0] in _REFUSED:
        raise _Stop


def _relpath(release: Release, held: HeldFile) -> str:
    sha256 = held.file.sha256 or ""
    return f"{release.source}/+f/{sha256[:3]}/{sha256[3:16]}/{held.file.filename}"


def _fields(release: Release, action: str) -> list[tuple[str, str]]:
    """The form's fields for a release: the action first, then its metadata."""
    named = {"metadata_version": "1.0", **{k: v for k, v in release.metadata.items() if v}}
    named |= {"name": release.name, "version": release.version}
    return [(":action", action), ("protocol_version", "1"), *_metadata_fields(named)]


def _metadata_fields(metadata: dict[str, object]) -> Iterator[tuple[str, str]]:
    for key in (*TEXTS, *LISTS):
        value = metadata.get(key)
        for one in value if isinstance(value, list) else [value]:
            if one:
                yield _FORM_NAMES.get(key, key), str(one)


def _kind(filename: str) -> list[tuple[str, str]]:
    """The fields `filetype` and `pyversion`, which the upload API wants of every file."""
    suffix = filename[filename.rfind(".") :].lower()
    filetype = _FILETYPES.get(suffix, "sdist")
    parts = filename.removesuffix(suffix).split("-")
    pyversion = "source" if filetype == "sdist" else "any"
    if filetype == "bdist_wheel" and len(parts) >= 5:
        pyversion = parts[-3]
    return [("filetype", filetype), ("pyversion", pyversion)]
