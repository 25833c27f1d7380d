"""XML-RPC on the wire: calls out of hostile bytes, answers without what XML cannot hold.

Standards X4: no entity is expanded, no document type is read, and characters that are illegal
in XML 1.0 are left out. All of this belongs into a thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final
from xml.sax.saxutils import escape
from xmlrpc.client import MAXINT, MININT, Fault, Unmarshaller, dumps

from attrs import frozen
from defusedxml.xmlrpc import DefusedExpatParser  # type: ignore[import-untyped]

FAULT_CODE: Final = 1
"""devpi's, for whatever is wrong with a call."""

_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_HEAD: Final = b"<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n<value>"
_TAIL: Final = b"</value>\n</param>\n</params>\n</methodResponse>\n"
_LIST: Final = (b"<array><data>\n", b"</data></array>")
_STRUCT: Final = (b"<struct>\n", b"</struct>")
_BATCH = 2_000


@frozen
class Call:
    """A method's name and its arguments."""

    method: str
    arguments: tuple[Any, ...]


def parse_call(body: bytes) -> Call:
    """Read a call; raises Fault for anything that is none."""
    target = Unmarshaller(use_builtin_types=True)
    try:
        parser = DefusedExpatParser(target, forbid_dtd=True)
        parser.feed(body)
        parser.close()
        arguments, method = target.close(), target.getmethodname()
    except Exception as error:  # the standard library raises a dozen kinds for bad bytes
        raise Fault(FAULT_CODE, f"not an XML-RPC call: {type(error).__name__}") from None
    if not isinstance(method, str):
        raise Fault(FAULT_CODE, "the call names no method")
    return Call(method, tuple(arguments))


def answer(value: Any) -> bytes:
    """A method's result as a document."""
    return dumps((plain(value),), methodresponse=True, allow_none=True).encode()


def fault(message: str) -> bytes:
    """An error as a document."""
    return dumps(Fault(FAULT_CODE, plain(message)), methodresponse=True).encode()


def plain(value: Any) -> Any:
    """A value as XML-RPC can say it: no illegal characters, no integers beyond 32 bits."""
    if isinstance(value, str):
        return _ILLEGAL.sub("", value)
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if type(value) is int and not MININT <= value <= MAXINT:
        return float(value)
    return value


def names_document(names: Iterable[str]) -> Iterator[bytes]:
    """A list of any length as the pieces of a document."""
    items = (f"<value><string>{_text(name)}</string></value>\n" for name in names)
    return _document(items, _LIST)


def serials_document(names: Iterable[tuple[str, int]]) -> Iterator[bytes]:
    """A struct of any length, of numbers by name, as the pieces of a document."""
    items = (
        f"<member><name>{_text(name)}</name><value><int>{serial}</int></value></member>\n"
        for name, serial in names
    )
    return _document(items, _STRUCT)


def _text(value: str) -> str:
    return escape(_ILLEGAL.sub("", value))


def _document(items: Iterable[str], around: tuple[bytes, bytes]) -> Iterator[bytes]:
    yield _HEAD + around[0]
    left = iter(items)
    while batch := "".join(islice(left, _BATCH)):
        yield batch.encode()
    yield around[1] + _TAIL
