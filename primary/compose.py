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
from cluster.parts import Parts, upstream_sources
from cluster.state import queries
from cluster.state.links import LocatedFile
from cluster.upstream.ondemand import OnDemand
from cluster.web.devpi.projects import ProjectPages
from cluster.web.files import Files
from cluster.web.status import LogIdentity
from primary.bootstrap import FIRST_EPOCH, FirstStart, first_changes, load_key, signer_for
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
from primary.followers import Followers
from primary.mirroring.listing import ListRefresher
from primary.mirroring.refresh import UpstreamRefresher
from primary.staging import Staging
from primary.triggers.sender import Sender, make_sender_agent, node_url
from primary.triggers.service import Triggers
from primary.upload import Uploads
from primary.web import PrimaryWeb
from primary.writer import Writer, utc_now


@frozen
class PrimarySettings:
    """What only a primary is told: its first start, who may change users and indexes (None:
    the usual rules), and who may publish by an identity token of a CI (None: nobody).
    """

    first_start: FirstStart
    restrict_modify: Restricted = None
    publishers: PublisherList | None = None


@define
class Primary:
    """A primary while it runs."""

    name = "primary"

    parts: Parts
    wish: PrimarySettings
    writer: Writer = field(init=False)
    feed: Feed = field(init=False)
    triggers: Triggers = field(init=False)

    async def start(self) -> PrimaryWeb:
        """Begin or continue the log, and make the application."""
        parts = self.parts
        private = await parts.pools.heavy.run(load_key, parts.settings.state_dir)
        self.writer = Writer(parts.database, parts.position, FIRST_EPOCH, parts.frontier)
        await self.writer.write(
            "+bootstrap", lambda c: first_changes(c, private, parts.blobs, self.wish.first_start)
        )
        epoch = await parts.database.read(queries.epoch)
        assert epoch is not None  # noqa: S101 (the first entry starts it)
        self.writer.epoch = epoch.epoch
        signer = signer_for(private, epoch)
        followers = Followers(parts.position, time.time)
        self.feed = Feed(
            parts.database, parts.position, signer, parts.identity, followers,
            epoch.log, epoch.key, lambda: parts.secret.secret,
        )  # fmt: skip
        self.writer.on_commit = self.feed.committed
        upgrade = PasswordUpgrade(self.writer, parts.blobs, parts.pools.heavy)
        parts.identity.weak = upgrade.upgrade
        self.triggers = self._triggers()
        self.triggers.start()
        return self._web(followers, LogIdentity(epoch.log, epoch.key), signer)

    def _web(self, followers: Followers, log: LogIdentity, signer: LogSigner) -> PrimaryWeb:
        parts = self.parts
        names = ListRefresher(
            parts.client, self.writer, parts.database, parts.pools.heavy,
            parts.settings.state_dir / "scratch", time.time,
        )  # fmt: skip
        refresher = UpstreamRefresher(
            parts.client, self.writer, parts.database, parts.pools.heavy, parts.health, names,
            time.time,
        )  # fmt: skip
        simple, mirror = parts.simple_pages(refresher)
        headers = parts.headers(lambda: log.log)
        files = parts.files(self._sources, refresher.learned)
        return PrimaryWeb(
            clock=parts.reactor, database=parts.database, position=parts.position, simple=simple,
            headers=headers, quick=parts.quick_pages(headers), identity=parts.identity,
            files=files,
            status=parts.status(
                "primary", lambda: log, lambda: None, self._more(followers)
            ),
            log=parts.log_pages(self.feed.checkpoint), feed=self.feed,
            uploads=self._uploads(),
            staging=Staging(parts.identity, self.writer),
            discovery=parts.discovery(), user_pages=parts.user_pages("primary"),
            index_pages=parts.index_pages(mirror),
            project_pages=ProjectPages(parts.database, simple, parts.settings.outside_url),
            finding=parts.finding(simple, mirror), docs=parts.docs(files),
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
            mirror=mirror, blobs=parts.blobs, now=time.time,
        )  # fmt: skip

    def _uploads(self) -> Uploads:
        parts = self.parts
        return Uploads(
            parts.database, self.writer, parts.store, parts.pools.heavy, parts.identity, utc_now
        )

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
        return upstream_sources(self.parts, located)

    def stop_waiting(self) -> None:
        """Answer long polls now."""
        self.feed.stop()

    async def stop(self) -> None:
        """Finish the writes that were accepted; what is not told yet is told after the start."""
        await self.triggers.stop()
        await self.writer.stop()
