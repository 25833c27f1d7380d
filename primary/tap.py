"""`twistd pymirror-primary`: options, and the one place where a primary's parts meet."""

from __future__ import annotations

import cluster.monotonic  # isort: skip  # noqa: F401 - before anything imports the reactor

from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.python import usage

from cluster.auth.acl import Restricted
from cluster.auth.nodekeys import NodeKey
from cluster.auth.nodes import make_secret
from cluster.auth.oidc import PublisherList, read_publishers
from cluster.errors import InvalidRequest
from cluster.node import NodeService
from cluster.options import NodeOptions, NodeSettings, check_url, size_option
from cluster.parts import Parts, open_parts
from cluster.state.optionvalues import MOST_SYNC_REPLICAS
from primary.bootstrap import FirstStart, load_key
from primary.compaction import DEFAULT_DAYS, DEFAULT_ENTRIES, Retention
from primary.compose import Primary, PrimarySettings
from primary.room import DEFAULT_FLOOR_BYTES
from primary.snapshots import DEFAULT_EVERY
from primary.triggers.tables import metadata as trigger_tables


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
        ["sync-replicas", None, None, "How many replicas must have a write, and the files it "
         "names, before it is acknowledged; an index may ask for more [default: 0]."],
        ["min-free", None, None, "Refuse uploads that would leave less of the disk free, such as "
         "1GB; 0: take them until it is full [default: 100MB]."],
        ["snapshot-every", None, None, "Make a snapshot of the state whenever the log has grown "
         f"by so many entries; 0: only on request [default: {DEFAULT_EVERY}]."],
        ["keep-entries", None, None, "Keep so many entries of the log below the older of two "
         f"snapshots [default: {DEFAULT_ENTRIES}]."],
        ["keep-days", None, None, "Keep entries of the log for so many days "
         f"[default: {DEFAULT_DAYS}]."],
        ["trusted-publishers", None, None, "TOML file that says who may publish by an identity "
         "token of a CI (trusted publishing); see docs/access.md."],
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
        replicas = self["sync-replicas"] or "0"
        if not replicas.isdecimal() or len(replicas) > 4 or int(replicas) > MOST_SYNC_REPLICAS:
            raise usage.UsageError(f"--sync-replicas is a number up to {MOST_SYNC_REPLICAS}")
        room = size_option("min-free", self["min-free"])
        self["min-free"] = DEFAULT_FLOOR_BYTES if room is None else room

    def primary_settings(self) -> PrimarySettings:
        """The checked settings that only a primary has."""
        return PrimarySettings(
            self._first_start(),
            self._restrict_modify(),
            self._publishers(),
            int(self["sync-replicas"] or 0),
            self["min-free"],
            self._number("snapshot-every", DEFAULT_EVERY),
            Retention(
                self._number("keep-entries", DEFAULT_ENTRIES),
                self._number("keep-days", DEFAULT_DAYS),
            ),
        )

    def _number(self, name: str, default: int) -> int:
        text = self[name]
        if text is not None and not (text.isdecimal() and len(text) < 16):
            raise usage.UsageError(f"--{name} is a number of 0 or more, not {text!r}")
        return default if text is None else int(text)

    def _first_start(self) -> FirstStart:
        path = self["root-passwd-file"]
        password = Path(path).expanduser().read_text().rstrip("\r\n") if path else None
        return FirstStart(self._root_pypi_url, password)

    def _restrict_modify(self) -> Restricted:
        names = self["restrict-modify"]
        if names is None:
            return None
        return frozenset(name.strip() for name in names.split(",") if name.strip())

    def _publishers(self) -> PublisherList | None:
        path = self["trusted-publishers"]
        if not path:
            return None
        try:
            return read_publishers(Path(path).expanduser().read_text())
        except (OSError, ValueError, InvalidRequest) as error:
            raise usage.UsageError(f"--trusted-publishers {path}: {error}") from None

    def _root_pypi_url(self) -> str | None:
        if self["no-root-pypi"]:
            return None
        if self["root-pypi-url"]:
            return str(self["root-pypi-url"])
        # Imported here alone: it costs 20 MB, and only a first start needs its constant.
        import pypi_simple

        return pypi_simple.PYPI_SIMPLE_ENDPOINT


def makeService(options: Options) -> Service:
    """What twistd runs."""
    from twisted.internet import reactor

    settings, wish = options.settings(), options.primary_settings()
    return NodeService(reactor, settings, lambda r: Primary(_parts(r, settings), wish))


def _parts(reactor: Any, settings: NodeSettings) -> Parts:
    parts = open_parts(
        reactor, settings, make_secret, durable=True, local_tables=[trigger_tables]
    )  # fmt: skip
    if settings.require_node_keys:
        # One that never was a replica has no key of its own, and the secret counts nowhere.
        parts.secret.owner = NodeKey(load_key(settings.state_dir))
    return parts
