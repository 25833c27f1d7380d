"""`twistd pymirror-replica`: options, and the one place where a replica's parts meet."""

from __future__ import annotations

import cluster.monotonic  # isort: skip  # noqa: F401 - before anything imports the reactor

import time
from typing import Any, cast

from attrs import define, field
from treq.client import HTTPClient
from twisted.application.service import Service
from twisted.python import usage

from cluster.agent import Requester, make_direct_agent
from cluster.errors import PymirrorError
from cluster.files.sources import HttpSource, Source
from cluster.node import NodeService
from cluster.options import NodeOptions, check_url
from cluster.parts import Parts, open_parts, upstream_sources
from cluster.state.links import LocatedFile
from cluster.upstream.health import iso
from cluster.version import __version__
from cluster.web.devpi.projects import ProjectPages
from replica.filesync import FileSync
from replica.follower import Follower
from replica.following import Following, document
from replica.forwarding import Forwarding
from replica.primary_client import PrimaryClient
from replica.refreshing import PrimaryRefresher
from replica.secretsync import SecretSync
from replica.web import ReplicaWeb


class Options(NodeOptions):
    """Run a replica of a pymirror cluster: it follows the primary's change log and serves the
    clients near it from its own state, whatever happens to the primary.
    """

    default_state_dir = "~/.pymirror/replica"

    optParameters = [  # noqa: RUF012 - the interface of usage.Options
        ["primary-url", None, None, "URL of the primary to follow, such as http://host:3141."],
    ]

    def postOptions(self) -> None:
        """Check what is the replica's own; raises UsageError."""
        super().postOptions()
        if not self["primary-url"]:
            raise usage.UsageError("a replica needs --primary-url, the URL of its primary")
        check_url("primary-url", self["primary-url"])


class NoSecret(PymirrorError):
    """A replica never makes the secret: it is the primary's."""


@define
class Replica:
    """A replica while it runs."""

    name = "replica"

    parts: Parts
    primary_url: str
    follower: Follower = field(init=False)
    _agent: Requester = field(init=False)
    _client: PrimaryClient = field(init=False)
    _files: FileSync = field(init=False)

    async def start(self) -> ReplicaWeb:
        """Begin to follow, and make the application."""
        parts = self.parts
        self._agent = make_direct_agent(parts.reactor)
        http = HTTPClient(cast(Any, self._agent))
        self._client = PrimaryClient(
            self.primary_url, http, parts.reactor, parts.secret, parts.uuid, time.time
        )
        self._files = FileSync(parts.database, parts.store, parts.position, parts.reactor)
        self.follower = Follower(
            self._client, parts.database, parts.pools.heavy, parts.position, parts.reactor,
            time.time, parts.settings.state_dir, parts.frontier, self._report,
            SecretSync(self._client, parts.blobs, parts.pools.heavy),
        )  # fmt: skip
        web = self._web()
        self.follower.start()
        self._files.start()
        return web

    def _web(self) -> ReplicaWeb:
        parts = self.parts
        refresher = PrimaryRefresher(
            self._client, self.follower, parts.position, parts.database, parts.client,
            parts.pools.heavy, parts.health, time.time,
        )  # fmt: skip
        simple, mirror = parts.simple_pages(refresher)
        headers = parts.headers(self._log_uuid)
        files = parts.files(self._sources, None)
        return ReplicaWeb(
            clock=parts.reactor, database=parts.database, position=parts.position, simple=simple,
            headers=headers, quick=parts.quick_pages(headers), identity=parts.identity,
            files=files, docs=parts.docs(files),
            status=parts.status(
                "replica", lambda: self.follower.identity, self._not_ready, self._more
            ),
            log=parts.log_pages(lambda: self.follower.note),
            forwarding=Forwarding(
                self._client, parts.position, parts.reactor, self.follower.nudge,
                parts.settings.outside_url,
            ),
            primary_url=self.primary_url, discovery=parts.discovery(),
            user_pages=parts.user_pages("replica"), index_pages=parts.index_pages(mirror),
            project_pages=ProjectPages(parts.database, simple, parts.settings.outside_url),
            finding=parts.finding(simple, mirror),
        )  # fmt: skip

    def _log_uuid(self) -> str | None:
        return None if self.follower.identity is None else self.follower.identity.log

    def _sources(self, located: LocatedFile, path: str) -> list[Source]:
        url = self.primary_url + path
        primary = HttpSource("primary", self._agent, lambda wanted: url, self._client.headers())
        upstream = upstream_sources(self.parts, located)
        # A primary that does not answer costs a time-out; do not make every client pay it.
        return [primary, *upstream] if self.follower.reachable else [*upstream, primary]

    def _report(self, following: Following) -> dict[str, Any]:
        return {
            "outside_url": self.parts.settings.outside_url,
            "version": __version__,
            "state": following.state.value,
            "files_in_sync": self._files.in_sync,
            "cache_bytes": self.parts.store.counters.bytes,
        }

    def _not_ready(self) -> str | None:
        following = self.follower.following
        # Who had caught up once serves for ever after, whatever happens to the primary.
        if following.caught_up_once:
            return None
        return f"not caught up with the primary yet: {following.last_error or following.state}"

    def _more(self) -> dict[str, Any]:
        following, now = self.follower.following, time.time()
        primary = {
            "url": self.primary_url,
            "serial": following.primary_serial,
            "last_contact": iso(following.last_contact),
        }
        return {
            "primary": primary,
            "follower": document(following, self.parts.position.serial, now),
            "in_sync": {
                "metadata": following.state.value == "in-sync",
                "metadata_at": iso(following.in_sync_at),
                "files": self._files.in_sync,
                "files_missing": self._files.missing,
                "files_checked_serial": self._files.checked_serial,
            },
        }

    def stop_waiting(self) -> None:
        """Answer those who wait for a serial now."""
        self.parts.position.wake_all()

    async def stop(self) -> None:
        """Follow no more."""
        self._files.stop()
        await self.follower.stop()


def _no_secret() -> bytes:
    raise NoSecret("--secret-file does not exist: copy the file 'secret' of the primary's state")


def makeService(options: Options) -> Service:
    """What twistd runs."""
    from twisted.internet import reactor

    settings, url = options.settings(), options["primary-url"].rstrip("/")
    return NodeService(
        reactor,
        settings,
        lambda r: Replica(open_parts(r, settings, _no_secret, durable=False), url),
    )
