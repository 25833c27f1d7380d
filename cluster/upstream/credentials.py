"""Passwords for upstreams: out of a mirror's node-only blob, to that upstream's origin only."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import orjson
from attrs import define, field
from twisted.logger import Logger

from cluster.durable import SecretBlobs
from cluster.model import MirrorIndex
from cluster.threads import Runner
from cluster.upstream.urls import origin

_MOST = 100


@define
class UpstreamCredentials:
    """Gives the header that an upstream wants; blobs are read once."""

    _log = Logger()

    _blobs: SecretBlobs
    _threads: Runner
    _known: dict[str, str | None] = field(factory=dict)

    async def headers(self, index: MirrorIndex, url: str) -> Mapping[str, str]:
        """What to send along to `url` on behalf of a mirror; nothing to other origins."""
        if index.secrets is None or index.mirror_url is None:
            return {}
        if origin(url) != origin(index.mirror_url):
            return {}
        if index.secrets not in self._known:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[index.secrets] = await self._threads.run(self._read, index.secrets)
        pair = self._known[index.secrets]
        if pair is None:
            return {}
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}

    def _read(self, name: str) -> str | None:
        try:
            secrets = orjson.loads(self._blobs.get(name))
        except (OSError, orjson.JSONDecodeError):
            self._log.error("the credentials {name} of a mirror cannot be read", name=name)
            return None
        pair = secrets.get("mirror_credentials")
        return pair if isinstance(pair, str) else None
