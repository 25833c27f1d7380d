"""What a primary is made of, put together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen

from cluster.agent import make_direct_agent
from cluster.auth.acl import Restricted
from cluster.auth.oidc import PublisherList, TrustedPublishers
from cluster.auth.oidckeys import IssuerKeys
from cluster.files.sources import Source
from cluster.log.checkpoint import LogSigner
from cluster.log.epochs import Trust
from cluster.parts import Parts
from cluster.state import queries
from cluster.state.links import LocatedFile
from cluster.threads import Threads
from cluster.upstream.ondemand import OnDemand
from cluster.web.devpi.projects import ProjectPages
from cluster.web.files import Files
from cluster.web.nearest import Nearest
from cluster.web.polls import Polls
from cluster.web.status import LogIdentity
from primary.acks import Acks
from primary.bootstrap import FIRST_EPOCH, FirstStart, first_changes, load_key, signer_for
from primary.compaction import Compaction, Retention
from primary.devpi.importing import ImportResource
from primary.devpi.indexes import IndexResource
from primary.devpi.projects import ProjectResource
from primary.devpi.push import PushResource
from primary.devpi.pushexternal import ExternalPush
from primary.devpi.pushmirrored import MirroredReleases
from primary.devpi.rehash import PasswordUpgrade
from primary.devpi.tokens import TokenResource
from primary.devpi.toxresults import ToxResults
from primary.devpi.trusted import TrustedPublishing
from primary.devpi.users import UserResource
from primary.feed import Feed
from primary.fencing import Fencing
from primary.filesources import FileSources
from primary.followers import Followers
from primary.joining import Joining
from primary.mirroring.listing import ListRefresher
from primary.mirroring.refresh import UpstreamRefresher
from primary.nodes import Nodes
from primary.owning import Owning
from primary.relayed import Relayed
from primary.remembered import Remembered
from primary.room import DEFAULT_FLOOR_BYTES, Room
from primary.snapshots import DEFAULT_EVERY, Snapshots
from primary.staging import Staging
from primary.streams import Streams
from primary.triggers.sender import Sender, make_sender_agent, node_url
from primary.triggers.service import Triggers
from primary.upload import Uploads
from primary.web import PrimaryWeb
from primary.writer import Writer, utc_now


@frozen
class PrimarySettings:
    """What only a primary is told: its first start, who may change users and indexes (None:
    the usual rules), who may publish by an identity token of a CI (None: nobody), and how many
    replicas must have a write before it is acknowledged. `min_free` bytes of the disk are not
    given to uploads.
    """

    first_start: FirstStart
    restrict_modify: Restricted = None
    publishers: PublisherList | None = None
    sync_replicas: int = 0
    min_free: int = DEFAULT_FLOOR_BYTES
    snapshot_every: int = DEFAULT_EVERY
    retention: Retention = field(factory=Retention)


@define
class Primary:
    """A primary while it runs."""

    name = "primary"

    parts: Parts
    wish: PrimarySettings
    writer: Writer = field(init=False)
    feed: Feed = field(init=False)
    relayed: Relayed = field(init=False)
    triggers: Triggers = field(init=False)
    acks: Acks = field(init=False)
    room: Room = field(init=False)
    owning: Owning = field(init=False)
    snapshots: Snapshots = field(init=False)
    compaction: Compaction = field(init=False)

    @property
    def fencing(self) -> Fencing:
        """Whether this primary still owns the log."""
        return self.owning.fencing

    async def start(self) -> PrimaryWeb:
        """Begin or continue the log, and make the application."""
        parts = self.parts
        private = await parts.pools.heavy.run(load_key, parts.settings.state_dir)
        self.writer = Writer(parts.database, parts.position, FIRST_EPOCH, parts.frontier)
        self.owning = await Owning.of(parts, lambda: self.writer.epoch, time.time)
        self.acks = Acks(parts.reactor, parts.directory, self.wish.sync_replicas)
        self.room = Room(parts.settings.state_dir, self.wish.min_free)
        await self.writer.write(
            "+bootstrap", lambda c: first_changes(c, private, parts.blobs, self.wish.first_start)
        )
        epochs = await parts.database.read(queries.all_epochs)
        first, epoch = epochs[0], epochs[-1]
        self.writer.epoch = epoch.epoch
        signer, trust = signer_for(private, epoch), Trust(first.log, first.key, parts.secret.secret)
        await self.owning.begin(trust, epoch)
        memory = Remembered(parts.local, time.time)
        followers = Followers(parts.position, time.time, memory, parts.token_uses.heard)
        await followers.load()
        polls = Polls(parts.position)
        streams = Streams(parts.reactor, parts.position, polls, parts.identity)
        self.feed = Feed(
            parts.database, parts.position, signer, parts.identity, followers,
            LogIdentity(first.log, first.key), lambda: parts.secret.secret, self.fencing, self.acks,
            polls, streams,
        )  # fmt: skip
        self.acks.on_wait = streams.tell
        self._watch_nodes(polls, followers)
        self.writer.on_commit, self.writer.guard = self.feed.committed, self.fencing.check
        self.writer.confirm = self.acks.confirm
        parts.identity.weak = PasswordUpgrade(self.writer, parts.blobs, parts.pools.heavy).upgrade
        self.triggers = self._triggers()
        self.triggers.start()
        self._keep_files()
        await self._keep_log(trust, signer, followers)
        return self._web(followers, LogIdentity(first.log, first.key), signer)

    def _watch_nodes(self, polls: Polls, followers: Followers) -> None:
        """Hear of replicas behind others, and of nodes that were revoked."""
        parts = self.parts
        self.relayed = Relayed(
            parts.identity, parts.database, parts.position, followers, self.acks, self.fencing,
            polls,
        )  # fmt: skip
        parts.admission.on_change = lambda: self._nodes_changed(polls, followers)

    async def _keep_log(self, trust: Trust, signer: LogSigner, followers: Followers) -> None:
        """Begin to make snapshots, and to remove what nobody needs behind them."""
        parts = self.parts
        self.snapshots = Snapshots(
            parts.database, parts.position, parts.identity, signer, trust,
            parts.settings.state_dir / "snapshots", Threads(parts.reactor, 1, "snapshots"),
            parts.reactor, self.wish.snapshot_every, self.fencing.require_owner,
        )  # fmt: skip
        self.compaction = Compaction(
            parts.database, self.snapshots, parts.reactor, time.time, followers.slowest,
            self.triggers.needed, self.wish.retention,
        )  # fmt: skip
        self.feed.newest_snapshot = lambda: self.snapshots.newest
        self.snapshots.made = self.compaction.look
        await self.snapshots.start()
        self.compaction.look()

    def _web(self, followers: Followers, log: LogIdentity, signer: LogSigner) -> PrimaryWeb:
        parts = self.parts
        refresher = self._refresher()
        simple, mirror = parts.simple_pages(refresher)
        headers = parts.headers(lambda: log.log)
        files = parts.files(self._sources, refresher.learned)
        nodes = Nodes(parts.uuid, parts.settings, parts.position, followers, parts.identity)
        parts.siblings.nodes = nodes.listed
        return PrimaryWeb(
            clock=parts.reactor, database=parts.database, position=parts.position, simple=simple,
            headers=headers, quick=parts.quick_pages(headers), identity=parts.identity,
            files=files,
            status=parts.status(
                "primary", lambda: log, lambda: None, self._more(followers)
            ),
            log=parts.log_pages(self.feed.checkpoint), feed=self.feed, snapshots=self.snapshots,
            relayed=self.relayed, uploads=self._uploads(),
            staging=Staging(parts.identity, self.writer),
            discovery=parts.discovery(), user_pages=parts.user_pages("primary"),
            index_pages=parts.index_pages(mirror),
            project_pages=ProjectPages(parts.database, simple, parts.settings.outside_url),
            finding=parts.finding(simple, mirror), docs=parts.docs(files),
            nodes=nodes, nearest=self._nearest(nodes),
            users=self._users(), indexes=self._indexes(),
            projects=ProjectResource(parts.identity, self.writer, mirror, simple),
            toxresults=self._toxresults(),
            pushes=self._pushes(files, mirror),
            tokens=TokenResource(
                parts.identity, parts.database, self.writer, parts.token_uses, time.time
            ),
            trusted=self._trusted(),
            imports=ImportResource(
                parts.identity, self.writer, parts.store, parts.blobs, parts.pools.heavy
            ),
            mirror=mirror, fencing=self.fencing, joining=self._joining(log, signer),
            blobs=parts.blobs, now=time.time,
        )  # fmt: skip

    def _refresher(self) -> UpstreamRefresher:
        parts = self.parts
        names = ListRefresher(
            parts.client, self.writer, parts.database, parts.pools.heavy,
            parts.settings.state_dir / "scratch", time.time,
        )  # fmt: skip
        return UpstreamRefresher(
            parts.client, self.writer, parts.database, parts.pools.heavy, parts.health, names,
            time.time,
        )  # fmt: skip

    def _nearest(self, nodes: Nodes) -> Nearest:
        trusted = self.parts.settings.trusted_proxies
        return Nearest(lambda: nodes.listed()[0], lambda: (nodes.listed(), 0.0), trusted)

    def _nodes_changed(self, polls: Polls, followers: Followers) -> None:
        admission = self.parts.admission
        polls.end(admission.is_revoked)
        for node in admission.revoked():
            self.acks.forget(node)
            followers.forget(node)

    def _joining(self, log: LogIdentity, signer: LogSigner) -> Joining:
        parts = self.parts
        return Joining(
            parts.identity, parts.database, self.writer, parts.admission,
            signer.private.private_bytes_raw(), log, lambda: parts.secret.secret, parts.uuid,
            time.time, parts.reactor,
        )  # fmt: skip

    def _uploads(self) -> Uploads:
        parts = self.parts
        return Uploads(
            parts.directory, self.writer, parts.store, parts.pools.heavy, parts.identity,
            self.room, self.acks, utc_now,
        )  # fmt: skip

    def _toxresults(self) -> ToxResults:
        parts = self.parts
        return ToxResults(
            parts.identity, parts.database, self.writer, parts.store, parts.pools.heavy, utc_now
        )

    def _users(self) -> UserResource:
        parts = self.parts
        return UserResource(
            parts.identity, parts.database, self.writer, parts.blobs, parts.pools.heavy, utc_now,
            self.wish.restrict_modify,
        )  # fmt: skip

    def _indexes(self) -> IndexResource:
        parts = self.parts
        return IndexResource(
            parts.identity, parts.database, self.writer, parts.blobs, parts.pools.heavy,
            self.wish.restrict_modify,
        )  # fmt: skip

    def _pushes(self, files: Files, mirror: OnDemand) -> PushResource:
        parts = self.parts
        mirrored = MirroredReleases(
            parts.database, mirror, files.fetch, parts.store, parts.pools.heavy
        )
        # No redirect is followed: it would take the password to somebody else.
        external = ExternalPush(
            make_direct_agent(parts.reactor), parts.reactor, parts.store, parts.pools.heavy
        )
        return PushResource(
            parts.identity, parts.database, self.writer, mirrored, external, utc_now
        )  # fmt: skip

    def _trusted(self) -> TrustedPublishing:
        parts, listed = self.parts, self.wish.publishers
        keys = IssuerKeys(make_direct_agent(parts.reactor), parts.reactor)
        publishers = None if listed is None else TrustedPublishers(listed, keys, time.time)
        return TrustedPublishing(publishers, self.writer, time.time, parts.settings.outside_url)

    def _more(self, followers: Followers) -> Callable[[], dict[str, Any]]:
        return lambda: {
            "replicas": followers.document(),
            "triggers": self.triggers.document(),
            "fenced": self.fencing.document(),
            "to_fence": self.owning.to_fence.left,
            "disk": self.room.document(),
            **self.snapshots.document(),
        }

    def _triggers(self) -> Triggers:
        parts, settings = self.parts, self.parts.settings
        sender = Sender(
            make_sender_agent(parts.reactor), parts.reactor, parts.blobs, parts.pools.heavy,
            lambda: node_url(settings.outside_url, settings.listen),
        )  # fmt: skip
        return Triggers(
            parts.database, parts.local, parts.position, sender, parts.reactor, time.time
        )

    def _sources(self, located: LocatedFile, path: str) -> list[Source]:
        return FileSources(self.parts).asked(located, path)

    def _keep_files(self) -> None:
        """All uploads stay: a primary is where others get them from."""
        keeping, refetch = self.parts.keeping, FileSources(self.parts).refetch
        keeping.start(lambda index: True, lambda: False, refetch, self._damaged)

    def _damaged(self, sha256: str) -> None:
        # Small files are kept in memory with their bytes, which may be the damaged ones.
        self.parts.hot_files.clear(self.parts.position.serial)

    def stop_waiting(self) -> None:
        """Answer long polls now."""
        self.feed.stop()
        self.acks.stop()

    async def stop(self) -> None:
        """Finish the writes that were accepted; what is not told yet is told after the start."""
        await self.compaction.stop()
        self.snapshots.stop()
        await self.owning.stop()
        await self.triggers.stop()
        await self.writer.stop()
