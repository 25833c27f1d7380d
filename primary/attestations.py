"""The attestations that come with an upload (PEP 740): checked in shape, kept, not verified.

What is kept is the provenance object that clients ask for. Its publisher says that nobody
verified it: who wants to know must check the signatures, as PEP 740 has it for consumers.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

import orjson

from cluster.errors import InvalidRequest

MAX_BYTES: Final = 1 << 20
_MOST: Final = 32
_PUBLISHER: Final = {"kind": "unverified"}


def provenance_of(fields: Mapping[str, list[str]]) -> bytes | None:
    """The provenance object for what a form has in its field ``attestations``; None for nothing.

    Raises InvalidRequest for what is not a list of attestations.
    """
    given = [text for text in fields.get("attestations", ()) if text.strip()]
    if not given:
        return None
    if len(given) > 1 or len(given[0].encode()) > MAX_BYTES:
        raise InvalidRequest(f"the form has one field attestations of at most {MAX_BYTES} bytes")
    try:
        attestations = orjson.loads(given[0])
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the attestations are not JSON: {error}") from None
    if not isinstance(attestations, list) or len(attestations) > _MOST:
        raise InvalidRequest(f"the attestations are not a list of at most {_MOST}")
    if not attestations:
        return None
    for attestation in attestations:
        _check(attestation)
    bundle = {"publisher": _PUBLISHER, "attestations": attestations}
    document = {"version": 1, "attestation_bundles": [bundle]}
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def _check(attestation: Any) -> None:
    match attestation:
        case {
            "version": 1,
            "verification_material": {
                "certificate": str(certificate),
                "transparency_entries": [_, *_] as entries,
            },
            "envelope": {"statement": str(statement), "signature": str(signature)},
        } if all(isinstance(entry, dict) for entry in entries):
            _check_base64(certificate, statement, signature)
        case _:
            raise InvalidRequest("an attestation does not have the shape of PEP 740's version 1")


def _check_base64(*values: str) -> None:
    for value in values:
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidRequest("a value in an attestation is not base64") from None
