"""What a trigger tells: an entry of the log as an event, and the webhook that carries it (pure).

The receiver of a webhook checks ``X-Pymirror-Signature`` (HMAC-SHA256 of the body under the
index's `webhook_secret`), and drops an ``X-Pymirror-Delivery`` that it has had before: what is
delivered at least once may come twice.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from enum import StrEnum
from hashlib import sha256
from typing import Any

import orjson
from attrs import asdict, frozen

from cluster.log.changes import Entry, Kind
from cluster.model import DistributionFile
from cluster.names import IndexName
from cluster.simple.pages import file_path

SIGNATURE_HEADER = "X-Pymirror-Signature"
EVENT_HEADER = "X-Pymirror-Event"
DELIVERY_HEADER = "X-Pymirror-Delivery"


class Target(StrEnum):
    """Whom an index can tell; each at most once per index."""

    WEBHOOK = "webhook"
    JENKINS = "jenkins"


OPTION: Mapping[Target, str] = {
    Target.WEBHOOK: "webhook_url",
    Target.JENKINS: "uploadtrigger_jenkins",
}
TOLD: Mapping[Target, frozenset[Kind]] = {
    Target.WEBHOOK: frozenset({Kind.FILE_ADDED, Kind.DOCS_SET}),
    Target.JENKINS: frozenset({Kind.FILE_ADDED}),
}


def urls_of(options: Mapping[str, Any]) -> dict[Target, str]:
    """The targets that an index's options name."""
    return {
        target: options[option]
        for target, option in OPTION.items()
        if isinstance(options.get(option), str) and options[option]
    }


@frozen
class Event:
    """A file or a documentation zip that an index has since entry `serial`.

    `number` tells apart what one entry published together; `time` is RFC 3339 in UTC.
    """

    event: str
    index: str
    project: str
    version: str | None
    filename: str
    sha256: str | None
    serial: int
    time: str
    actor: str
    url: str
    number: int = 0

    @property
    def delivery(self) -> str:
        """The same for every attempt to tell this event, and for no other event."""
        return f"{self.serial}-{self.number}"


def event_of(source: Entry, visible: Entry, number: int, base_url: str) -> Event:
    """The event of `source`, which can be seen since `visible` (a stage's publication, or itself).

    `base_url` is where clients reach this node. Raises KeyError for an entry of another kind.
    """
    payload = source.payload
    if source.kind is Kind.DOCS_SET:
        docs = payload["docs"]
        file = DistributionFile(
            docs["filename"], payload["version"], hashes={"sha256": docs["sha256"]}
        )
    else:
        file = DistributionFile(**payload["file"])
    index = IndexName(payload["index"])
    return Event(
        source.kind.value, index, payload["project"], file.version, file.filename, file.sha256,
        visible.serial, visible.time, visible.actor,
        f"{base_url.rstrip('/')}/{index}/{file_path(file)}", number,
    )  # fmt: skip


def webhook_body(event: Event) -> bytes:
    """The JSON that a webhook carries."""
    return orjson.dumps({k: v for k, v in asdict(event).items() if k != "number"})


def webhook_headers(event: Event, body: bytes, secret: str | None) -> dict[str, str]:
    """The headers beside it; signed when the index has a secret."""
    headers = {
        "Content-Type": "application/json",
        EVENT_HEADER: event.event,
        DELIVERY_HEADER: event.delivery,
    }
    if secret:
        headers[SIGNATURE_HEADER] = "sha256=" + hmac.digest(secret.encode(), body, sha256).hex()
    return headers
