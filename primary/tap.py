"""`twistd pymirror-primary`: options, and the one place where a primary's parts meet."""

from __future__ import annotations

import cluster.monotonic  # isort: skip  # noqa: F401 - before anything imports the reactor

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.application.service import Service
from twisted.python import usage

from cluster.auth.acl import Restricted
from cluster.auth.nodes import make_secret
from cluster.files.sources import Source
from cluster.log.checkpoint import LogSigner
from cluster.node import NodeService
from cluster.options import NodeOptions, check_url
from cluster.parts import Parts, open_parts, upstream_sources
from cluster.state import queries
from cluster.state.links import LocatedFile
from cluster.web.status import LogIdentity
from primary.bootstrap import FIRST_EPOCH, FirstStart, first_changes, load_key, signer_for
from primary.devpi.indexes import IndexResource
from primary.devpi.users import UserResource
from primary.feed import Feed
from primary.followers import Followers
from primary.mirroring.listing import ListRefresher
from primary.mirroring.refresh import UpstreamRefresher
from primary.triggers.sender import Sender, make_sender_agent, node_url
from primary.triggers.service import Triggers
from primary.triggers.tables import metadata as trigger_tables
from primary.upload import Uploads
from primary.web import PrimaryWeb
from primary.writer import Writer, utc_now


class Options(NodeOptions):
    """Run the primary of a pymirror cluster: the node that owns the index state and the change
    log. Its first start makes the user root (empty password, good from this machine alone) and
    the mirror index root/pypi.
    """

    default_state_dir = "~/.pymirror/primary"

    optParameters = [  # noqa: RUF012 - the interface of usage.Options
        ["root-pypi-url", None, None, "Upstream of the index root/pypi that the first start makes "
         "[default: the public index]."],
        ["root-passwd-file", None, None, "File with the password that the first start gives to "
         "the user root."],
        ["restrict-modify", None, None, "Let only these users, separated by commas, create and "
         "change users and indexes; include root, if it is to go on [default: everybody creates "
         "users, who change what is their own]."],
    ]  # fmt: skip
    optFlags = [  # noqa: RUF012
        ["no-root-pypi", None, "Do not make the index root/pypi on first start."]
    ]

    def postOptions(self) -> None:
        """Check what is the primary's own; raises UsageError."""
        super().postOptions()
        check_url("root-pypi-url", self["root-pypi-url"])
        path = self["root-passwd-file"]
        if path and not Path(path).expanduser().is_file():
            raise usage.UsageError(f"--root-passwd-file {path} is not a file")

    def first_start(self) -> FirstStart:
        """What a new primary should begin with."""
        path = self["root-passwd-file"]
        password = Path(path).expanduser().read_text().rstrip("\r\n") if path else None
        return FirstStart(self._root_pypi_url, password)

    def restrict_modify(self) -> Restricted:
        """Who alone may change users and indexes; None for the usual rules."""
        names = self["restrict-modify"]
        if names is None:
            return None
        return frozenset(name.strip() for name in names.split(",") if name.strip())

    def _root_pypi_url(self) -> str | None:
        if self["no-root-pypi"]:
            return None
        if self["root-pypi-url"]:
            return str(self["root-pypi-url"])
        # Imported here alone: it costs 20 MB, and only a first start needs its constant.
        import pypi_simple

        return pypi_simple.PYPI_SIMPLE_ENDPOINT


@define
class Primary:
    """A primary while it runs."""

    name = "primary"

    parts: Parts
    wish: FirstStart
    restrict_modify: Restricted = None
    writer: Writer = field(init=False)
    feed: Feed = field(init=False)
    triggers: Triggers = field(init=False)

    async def start(self) -> PrimaryWeb:
        """Begin or continue the log, and make the application."""
        parts = self.parts
        private = await parts.pools.heavy.run(load_key, parts.settings.state_dir)
        self.writer = Writer(parts.database, parts.position, FIRST_EPOCH, parts.frontier)
        await self.writer.write(
            "+bootstrap", lambda c: first_changes(c, private, parts.blobs, self.wish)
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
        return PrimaryWeb(
            clock=parts.reactor, database=parts.database, position=parts.position, simple=simple,
            headers=headers, quick=parts.quick_pages(headers), identity=parts.identity,
            files=parts.files(self._sources, refresher.learned),
            status=parts.status(
                "primary", lambda: log, lambda: None, self._more(followers)
            ),
            log=parts.log_pages(self.feed.checkpoint), feed=self.feed,
            uploads=Uploads(
                parts.database, self.writer, parts.store, parts.pools.heavy, parts.identity,
                utc_now,
            ),
            discovery=parts.discovery(), user_pages=parts.user_pages("primary"),
            index_pages=parts.index_pages(mirror), users=self._users(), indexes=self._indexes(),
            mirror=mirror, blobs=parts.blobs, now=time.time,
        )  # fmt: skip

    def _users(self) -> UserResource:
        parts = self.parts
        return UserResource(
            parts.identity, parts.database, self.writer, parts.blobs, parts.pools.heavy, utc_now,
            self.restrict_modify,
        )  # fmt: skip

    def _indexes(self) -> IndexResource:
        parts = self.parts
        return IndexResource(
            parts.identity, parts.database, self.writer, parts.blobs, parts.pools.heavy,
            self.restrict_modify,
        )  # fmt: skip

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


def makeService(options: Options) -> Service:
    """What twistd runs."""
    from twisted.internet import reactor

    settings, wish = options.settings(), options.first_start()
    restrict_modify = options.restrict_modify()
    return NodeService(
        reactor,
        settings,
        lambda r: Primary(
            open_parts(r, settings, make_secret, durable=True, local_tables=[trigger_tables]),
            wish,
            restrict_modify,
        ),
    )
