"""`twistd pymirror-replica`: options, and the one place where a replica's parts meet."""

from __future__ import annotations

import cluster.monotonic  # isort: skip  # noqa: F401 - before anything imports the reactor

import os
import time
from typing import Any, cast

import orjson
from attrs import define, field
from treq.client import HTTPClient
from twisted.application.service import Service
from twisted.python import usage

from cluster import peers
from cluster.agent import Requester, make_node_agent
from cluster.durable import write_durably
from cluster.errors import PymirrorError
from cluster.log.merkle import Frontier
from cluster.node import NodeService
from cluster.options import NodeOptions, NodeSettings, check_url
from cluster.parts import Parts, open_parts
from cluster.upstream.health import iso
from cluster.web.devpi.projects import ProjectPages
from cluster.web.nearest import Nearest
from cluster.web.polls import Polls
from replica import joining
from replica.announcing import Vitals, announced, own_node
from replica.bootstrap import Bootstrap
from replica.cosigning import Cosigner
from replica.filesources import FileSources
from replica.filesync import LAZY, FileSync, keeper
from replica.follower import Follower
from replica.following import Following, State, document
from replica.forwarding import Forwarding
from replica.owner import OwnerCheck, OwnerSearch
from replica.primary_client import PrimaryClient
from replica.pulling import Pulling
from replica.refreshing import PrimaryRefresher
from replica.relay import Relay
from replica.reporting import Own, Reporter
from replica.secretsync import SecretSync
from replica.siblings import Siblings
from replica.web import ReplicaWeb


class Options(NodeOptions):
    """Run a replica of a pymirror cluster: it follows the primary's change log and serves the
    clients near it from its own state, whatever happens to the primary.
    """

    default_state_dir = "~/.pymirror/replica"
    multiple = (*NodeOptions.multiple, "primary-url")

    optParameters = [  # noqa: RUF012 - the interface of usage.Options
        ["join-token-file", None, None, "File with a join token, as pymirror node invite prints "
         "it: a new replica gets the cluster's secret, and a key of its own, by it. Needed on the "
         "first start alone."],
        ["files", None, None, "Which uploaded files to fetch before anybody asks for them, and "
         "keep: full, lazy, or patterns of index names such as root/*,team/dev [default: lazy]."],
    ]  # fmt: skip

    def opt_primary_url(self, url: str) -> None:
        """URL of the primary to follow, such as http://host:3141. Given more than once, they are
        candidates, such as a replica that may be promoted: the next one is tried when one does
        not answer, or is not the primary any more.
        """
        self["primary-url"].append(url)

    def postOptions(self) -> None:
        """Check what is the replica's own; raises UsageError."""
        super().postOptions()
        if not self["primary-url"]:
            raise usage.UsageError("a replica needs --primary-url, the URL of its primary")
        for url in self["primary-url"]:
            check_url("primary-url", url)


class NoSecret(PymirrorError):
    """A replica never makes the secret: it is the primary's."""


@define
class Replica:
    """A replica while it runs."""

    name = "replica"

    parts: Parts
    primary_urls: list[str]
    files_mode: str = LAZY
    follower: Follower = field(init=False)
    bootstrap: Bootstrap = field(init=False)
    _agent: Requester = field(init=False)
    _client: PrimaryClient = field(init=False)
    _polls: Polls = field(init=False)
    _files: FileSync = field(init=False)
    _sources: FileSources = field(init=False)
    _cosigner: Cosigner = field(init=False)
    _reporter: Reporter = field(init=False)
    _vitals: Vitals = field(init=False)
    _owner: OwnerSearch = field(init=False)
    _siblings: Siblings = field(init=False)

    async def start(self) -> ReplicaWeb:
        """Begin to follow, and make the application."""
        parts = self.parts
        self._make_client()
        self._siblings = Siblings(
            self._client, parts.reactor, parts.uuid,
            lambda urls: parts.pools.heavy.run(peers.keep, parts.settings.state_dir, urls),
        )  # fmt: skip
        self._make_file_sync()
        secrets = SecretSync(self._client, parts.blobs, parts.pools.heavy)
        self.bootstrap = Bootstrap(
            self._client, parts.database, parts.pools.heavy, parts.settings.state_dir, secrets,
            parts.reactor,
        )  # fmt: skip
        self.follower = Follower(
            self._client, parts.database, parts.pools.heavy, parts.position, parts.reactor,
            time.time, parts.settings.state_dir, parts.frontier, self._polling,
            secrets, self.bootstrap,
        )  # fmt: skip
        self.follower.on_durable = self._cosigner.tell
        web = self._web()
        # `pymirror promote` reads whom this node has followed.
        urls = "".join(f"{url}\n" for url in self.primary_urls).encode()
        await parts.pools.heavy.run(
            write_durably, parts.settings.state_dir / peers.URLS_FILE, urls
        )  # fmt: skip
        self.follower.start()
        self._siblings.start()
        self._reporter.start()
        self._owner = self._owner_search()
        self._owner.start()
        parts.siblings.nodes = lambda: self._siblings.nodes
        parts.keeping.start(
            keeper(self.files_mode), self._primary_has_all, self._sources.refetch, self._damaged
        )
        self._files.start()
        return web

    def _make_client(self) -> None:
        parts = self.parts
        self._vitals = Vitals(parts.reactor)
        self._agent = make_node_agent(parts.reactor)
        http = HTTPClient(cast(Any, self._agent))
        self._client = PrimaryClient(
            self.primary_urls, http, parts.reactor, parts.secret, parts.uuid, time.time,
            agent=self._agent,
        )  # fmt: skip

    def _make_file_sync(self) -> None:
        parts = self.parts

        def reachable() -> bool:
            return self.follower.reachable

        self._sources = FileSources(parts, self._client, self._agent, reachable)
        self._files = FileSync(
            parts.keeping.hosted, parts.fetcher, self._sources.hosted, reachable, parts.reactor,
            time.time, self.files_mode,
        )  # fmt: skip
        self._cosigner = Cosigner(
            self._client, self._durable_positions, reachable, self._encoded_report, parts.reactor
        )
        own = Own(
            parts.uuid, lambda: self._files.files_position, lambda: self.follower.following,
            self._report, time.time,
            lambda method, path: parts.secret.token(parts.uuid, method, path),
        )  # fmt: skip
        self._reporter = Reporter(self._client, parts.reactor, own)
        self._files.progressed = self._progressed

    def _progressed(self) -> None:
        self._cosigner.tell_files()
        self._reporter.tell()

    def _durable_positions(self) -> tuple[Frontier, int]:
        durable = self.follower.durable
        return durable, min(durable.size, self._files.files_position)

    def _web(self) -> ReplicaWeb:
        parts = self.parts
        refresher = PrimaryRefresher(
            self._client, self.follower, parts.position, parts.database, parts.client,
            parts.pools.heavy, parts.health, time.time,
        )  # fmt: skip
        simple, mirror = parts.simple_pages(refresher)
        headers = parts.headers(self._log_uuid)
        files = parts.files(self._sources.asked, None)
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
                parts.settings.outside_url, parts.identity, parts.uuid,
                lambda: self.follower.following,
            ),
            relay=self._relay(), pulling=Pulling(
                parts.identity, parts.store, parts.fetcher, self._sources.hosted, parts.uuid
            ),
            primary_url=lambda: self._client.url, discovery=parts.discovery(),
            user_pages=parts.user_pages("replica"), index_pages=parts.index_pages(mirror),
            project_pages=ProjectPages(parts.database, simple, parts.settings.outside_url),
            finding=parts.finding(simple, mirror), nearest=self._nearest(),
        )  # fmt: skip

    def _nearest(self) -> Nearest:
        return Nearest(
            lambda: own_node(self.parts, self.follower.following, time.time()),
            lambda: (self._siblings.nodes, self._siblings.age_seconds),
            self.parts.settings.trusted_proxies,
        )

    def _relay(self) -> Relay:
        parts = self.parts
        polls = self._polls = Polls(parts.position)
        parts.admission.on_change = lambda: polls.end(parts.admission.is_revoked)
        return Relay(
            self._client, parts.database, parts.position, parts.identity, parts.blobs,
            parts.pools.heavy, polls, parts.uuid, lambda: self.follower.identity,
            lambda: self.follower.following, self._reporter,
        )  # fmt: skip

    def _log_uuid(self) -> str | None:
        return None if self.follower.identity is None else self.follower.identity.log

    def _primary_has_all(self) -> bool:
        return self.follower.following.state is State.IN_SYNC

    def _damaged(self, sha256: str) -> None:
        # Small files are kept in memory with their bytes, which may be the damaged ones.
        self.parts.hot_files.clear(self.parts.position.serial)

    def _owner_search(self) -> OwnerSearch:
        check = OwnerCheck(
            self._client, self.follower, lambda: self.parts.position.head.epoch,
            self._encoded_report,
        )  # fmt: skip
        return OwnerSearch(self._client, self.parts.reactor, check)

    def _polling(self, following: Following) -> dict[str, Any]:
        self._reporter.polls(self.follower.frontier)
        return self._report(following)

    def _report(self, following: Following) -> dict[str, Any]:
        return {
            **announced(self.parts, following, self._vitals),
            "files_in_sync": self._files.in_sync,
            "files_missing": self._files.missing,
            "files_position": self._files.files_position,
            "cache_bytes": self.parts.store.counters.bytes,
            "token_uses": self.parts.token_uses.recent(),
        }

    def _encoded_report(self) -> bytes:
        return orjson.dumps(self._report(self.follower.following))

    def _not_ready(self) -> str | None:
        following = self.follower.following
        # Who had caught up once serves for ever after, whatever happens to the primary.
        if following.caught_up_once:
            return None
        return f"not caught up with the primary yet: {following.last_error or following.state}"

    def _more(self) -> dict[str, Any]:
        following, now = self.follower.following, time.time()
        primary = {
            "url": self._client.url,
            "via": list(self._client.chain),
            "serial": following.primary_serial,
            "last_contact": iso(following.last_contact),
        }
        return {
            "primary": primary,
            "bootstrap": self.bootstrap.document(),
            "follower": document(following, self.parts.position.serial, now),
            "in_sync": {
                "metadata": following.state.value == "in-sync",
                "metadata_at": iso(following.in_sync_at),
                **self._files.document(),
            },
        }

    def stop_waiting(self) -> None:
        """Answer those who wait for a serial now."""
        self._polls.stop()

    async def stop(self) -> None:
        """Follow no more."""
        self._cosigner.stop()
        self._reporter.stop()
        self._owner.stop()
        await self._files.stop()
        await self._siblings.stop()
        await self.follower.stop()


def _no_secret() -> bytes:
    raise NoSecret(
        "--secret-file does not exist: join by --join-token-file (see pymirror node invite), or "
        "copy the file 'secret' of the primary's state"
    )


def makeService(options: Options) -> Service:
    """What twistd runs."""
    from twisted.internet import reactor

    settings = options.settings()
    urls = [url.rstrip("/") for url in options["primary-url"]]
    return NodeService(
        reactor,
        settings,
        lambda r: Replica(
            _joined(r, settings, urls, options["join-token-file"]), urls, options["files"] or LAZY
        ),
    )


def _joined(reactor: Any, settings: NodeSettings, urls: list[str], token_file: str | None) -> Parts:
    if not joining.has_joined(settings.state_dir):
        token = joining.token_text(token_file, os.environ)
        if token is not None:
            joining.join(settings, urls, token)
    return open_parts(reactor, settings, _no_secret, durable=False)
