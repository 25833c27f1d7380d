"""The multipart form of an upload, parsed as it comes: fields in memory, the file to disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Protocol
from urllib.parse import parse_qsl

from attrs import define, field, frozen
from multipart import MultipartError, PushMultipartParser, parse_options_header

from cluster.errors import InvalidRequest, TooLarge
from cluster.files.sink import HashingSink
from cluster.files.store import FileStore
from cluster.web.body import RequestStream

Fields = Mapping[str, list[str]]

_MAX_FIELD_BYTES = 4 << 20
_MAX_SEGMENTS = 4_000
_ROOM_BYTES = 1 << 20
# What twine and uv send beside sha256 (standards U1); md5 comes from older ones.
_HASHES = ("md5", "blake2b_256")


class Action(StrEnum):
    """What an upload's field ``:action`` asks for (devpi-api §6)."""

    SUBMIT = "submit"
    FILE_UPLOAD = "file_upload"
    DOC_UPLOAD = "doc_upload"


@frozen
class Content:
    """The uploaded file: its name, and its bytes in a temporary file."""

    filename: str
    sink: HashingSink


class Form(Protocol):
    """What came with an upload."""

    @property
    def fields(self) -> Fields:
        """All fields but the file."""

    def write(self, data: bytes) -> None:
        """Take bytes of the body; after an error the rest is dropped."""

    def check(self) -> None:
        """Raise what was wrong with the form so far."""

    def finish(self) -> None:
        """The body is whole; raises what was wrong with it."""

    def content(self) -> Content:
        """The file in it; raises InvalidRequest when there is none."""

    async def abort(self) -> None:
        """Remove what is on disk, unless it was added to the store."""


def action_of(form: Form) -> Action:
    """What the form asks for; raises InvalidRequest."""
    said, *more = form.fields.get(":action") or [""]
    if not said:
        raise InvalidRequest("the field :action is missing")
    if more:
        raise InvalidRequest("the form has more than one :action")
    try:
        return Action(said)
    except ValueError:
        raise InvalidRequest(f"unknown :action {said!r}: send file_upload") from None


def form_of(
    content_type: str | None,
    store: FileStore,
    limit_bytes: int,
    stream: RequestStream,
    require_room: Callable[[], None] = lambda: None,
) -> Form:
    """A consumer for a body of this type; raises InvalidRequest for one that is not a form.

    `require_room` is asked with every megabyte: not everybody says how much will come.
    """
    media_type, options = parse_options_header(content_type or "")
    if media_type == "application/x-www-form-urlencoded":
        return FieldsForm(stream)
    if media_type != "multipart/form-data" or not options.get("boundary"):
        raise InvalidRequest("an upload is a multipart/form-data form")
    return UploadForm(str(options["boundary"]), store, limit_bytes, stream, require_room)


@define(eq=False)
class FieldsForm:
    """A form without a file, as clients send it with ``:action=submit``."""

    _stream: RequestStream
    fields: dict[str, list[str]] = field(factory=lambda: defaultdict(list))
    _body: bytearray = field(factory=bytearray)
    _error: Exception | None = None

    def write(self, data: bytes) -> None:
        """Take bytes of the body."""
        self._body += data
        if len(self._body) > _MAX_FIELD_BYTES and self._error is None:
            self._error = TooLarge(f"the fields of a form have at most {_MAX_FIELD_BYTES} bytes")
            self._stream.abandon()

    def check(self) -> None:
        """Raise TooLarge when it was too much."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Read the fields; raises InvalidRequest."""
        self.check()
        try:
            pairs = parse_qsl(
                self._body.decode("ascii"), keep_blank_values=True, errors="strict",
                max_num_fields=_MAX_SEGMENTS,
            )  # fmt: skip
        except ValueError:
            raise InvalidRequest("the form is broken: it is not URL-encoded UTF-8") from None
        for name, value in pairs:
            self.fields[name].append(value)

    def content(self) -> Content:
        """There is none."""
        raise InvalidRequest("the form has no file in its field 'content'")

    async def abort(self) -> None:
        """Nothing is on disk."""


@define(eq=False)
class UploadForm:
    """A consumer of an upload's body (`RequestStream.deliver`).

    The stream is paused while more waits for the disk than the sink wants to hold.
    """

    _boundary: str
    _store: FileStore
    _limit_bytes: int
    _stream: RequestStream
    _require_room: Callable[[], None]
    fields: dict[str, list[str]] = field(factory=lambda: defaultdict(list))
    _parser: PushMultipartParser = field(init=False)
    _name: str = ""
    _text: bytearray | None = None
    _text_bytes: int = 0
    _received: int = 0
    _content: Content | None = None
    _writing: bool = False
    _error: Exception | None = None

    def __attrs_post_init__(self) -> None:
        self._parser = PushMultipartParser(self._boundary, max_segment_count=_MAX_SEGMENTS)

    def write(self, data: bytes) -> None:
        """Take bytes of the body. After an error the rest is dropped; `finish` raises it."""
        before, self._received = self._received, self._received + len(data)
        if self._error is not None:
            return
        try:
            if before // _ROOM_BYTES != self._received // _ROOM_BYTES:
                self._require_room()
            if self._received > self._limit_bytes:
                raise TooLarge(f"uploads have at most {self._limit_bytes} bytes")
            for event in self._parser.parse(data):
                self._take(event)
        except MultipartError as error:
            self._fail(InvalidRequest(f"the form is broken: {error}"))
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._stream.abandon()  # gigabytes more would change nothing

    def check(self) -> None:
        """Raise what was wrong with the form so far."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """The body is whole; raises what was wrong with it."""
        self.check()
        try:
            self._parser.close()
        except MultipartError as error:
            raise InvalidRequest(f"the form is broken: {error}") from None

    def content(self) -> Content:
        """The file in it; raises InvalidRequest when there is none."""
        if self._content is None:
            raise InvalidRequest("the form has no file in its field 'content'")
        return self._content

    async def abort(self) -> None:
        """Remove what is on disk, unless it was added to the store."""
        if self._content is not None:
            await self._content.sink.abort()

    def _take(self, event: object) -> None:
        if event is None:
            self._end_segment()
        elif isinstance(event, bytes | bytearray):
            self._add(bytes(event))
        else:
            self._begin_segment(event)

    def _begin_segment(self, segment: object) -> None:
        self._name = str(getattr(segment, "name", ""))
        filename = getattr(segment, "filename", None)
        self._writing = self._name == "content" and filename is not None
        if not self._writing:
            self._text = bytearray()
            return
        if self._content is not None:
            raise InvalidRequest("the form has two files in its field 'content'")
        sink = self._store.new_sink(_HASHES)
        sink.attach(self._stream)
        self._content = Content(str(filename), sink)

    def _add(self, data: bytes) -> None:
        if self._writing and self._content is not None:
            self._content.sink.write(data)
            return
        self._text_bytes += len(data)
        if self._text_bytes > _MAX_FIELD_BYTES:
            raise TooLarge(f"the fields of a form have at most {_MAX_FIELD_BYTES} bytes")
        if self._text is not None:
            self._text += data

    def _end_segment(self) -> None:
        if not self._writing and self._text is not None:
            try:
                self.fields[self._name].append(self._text.decode())
            except UnicodeDecodeError:
                raise InvalidRequest(f"the field {self._name!r} is not UTF-8") from None
        self._text, self._writing = None, False
