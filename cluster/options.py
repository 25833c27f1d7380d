"""Command-line options that both commands share; each also as an environment variable."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from attrs import frozen
from twisted.python import usage

from cluster.errors import InvalidRequest
from cluster.nearest import DEFAULT_WEIGHT, MOST_WEIGHT
from cluster.networks import Networks, parse_networks
from cluster.sizes import parse_size

ENVIRONMENT_PREFIX = "PYMIRROR_"
DEFAULT_SCRUB_RATE = 10_000_000
DEFAULT_LISTEN = "tcp:3141:interface=127.0.0.1"
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@frozen
class NodeSettings:
    """What every node must know to run."""

    state_dir: Path
    listen: tuple[str, ...]
    secret_file: Path
    outside_url: str | None
    allow_empty_root_password: bool = False
    search: bool = True
    require_node_keys: bool = False
    region: str | None = None
    networks: Networks = ()
    weight: int = DEFAULT_WEIGHT
    trusted_proxies: Networks = ()
    cache_bytes: int | None = None
    scrub_rate: int = DEFAULT_SCRUB_RATE


class NodeOptions(usage.Options):
    """Options of a node. What the command line leaves out comes from the environment."""

    default_state_dir = "~/.pymirror"
    multiple: ClassVar[tuple[str, ...]] = ("listen",)
    """Options that may be given more than once; in the environment, separated by commas."""

    optParameters = [  # noqa: RUF012 - the interface of usage.Options
        ["state-dir", None, None, "Folder for the log, the index state and files."],
        ["secret-file", None, None, "File with the secret that the nodes of a cluster share "
         "[default: STATE-DIR/secret]."],
        ["outside-url", None, None, "URL at which clients reach this node, for status and "
         "other nodes."],
        ["region", None, None, "Name of the place where this node is: clients are sent to nodes "
         "of their region."],
        ["networks", None, None, "Networks whose clients are near this node, such as "
         "192.0.2.0/24,2001:db8::/32."],
        ["weight", None, None, "Share of the clients among nodes that are equally near, 0 to "
         f"{MOST_WEIGHT} [default: {DEFAULT_WEIGHT}]; 0 drains the node."],
        ["trusted-proxies", None, None, "Networks of the fronts whose X-Forwarded-For is "
         "believed, such as 127.0.0.0/8."],
        ["cache-size", None, None, "Most bytes of files that can be fetched again, such as 50GB; "
         "what was used longest ago goes first [default: no bound]."],
        ["scrub-rate", None, None, "Bytes a second, such as 10MB, at which stored files are read "
         "again and compared with their digests; 0 for never [default: 10MB]."],
    ]  # fmt: skip

    optFlags = [  # noqa: RUF012 - the interface of usage.Options
        ["allow-empty-root-password", None, "Let a user without a password (root, at first) log "
         "in from everywhere, not only from this machine."],
        ["require-node-keys", None, "Admit nodes by their own keys alone (see pymirror node "
         "invite), not by the shared secret; give it to every node of the cluster."],
        ["no-search", None, "Keep no search index; pip search and /+search are answered with an "
         "error."],
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        for name in self.multiple:
            self[name] = []

    def opt_listen(self, endpoint: str) -> None:
        """Where to listen, as a Twisted endpoint, such as tcp:3141:interface=127.0.0.1 (the
        default, this machine alone) or tcp:3141 (all interfaces). May be given more than once.
        """
        self["listen"].append(endpoint)

    def postOptions(self) -> None:
        """Fill in from the environment and check; raises UsageError."""
        for name in self._names():
            variable = ENVIRONMENT_PREFIX + name.upper().replace("-", "_")
            value = os.environ.get(variable)
            if value and not self.get(name):
                self[name] = value.split(",") if name in self.multiple else value
        for name in self._flags():
            value = os.environ.get(ENVIRONMENT_PREFIX + name.upper().replace("-", "_"))
            if value is not None:
                self[name] = self[name] or value.lower() in ("1", "true", "yes")
        self["listen"] = self["listen"] or [DEFAULT_LISTEN]
        self["state-dir"] = self["state-dir"] or self.default_state_dir
        check_url("outside-url", self["outside-url"])
        if self["region"] and not _REGION.fullmatch(self["region"]):
            raise usage.UsageError(f"--region {self['region']!r} is not a name such as eu-west")
        self["weight"] = _weight(self["weight"])
        self["cache-size"] = size_option("cache-size", self["cache-size"])
        rate = size_option("scrub-rate", self["scrub-rate"])
        self["scrub-rate"] = DEFAULT_SCRUB_RATE if rate is None else rate
        for name in ("networks", "trusted-proxies"):
            self[name] = _networks(name, self[name])

    def _names(self) -> list[str]:
        return [*self.multiple, *self._declared("optParameters")]

    def _flags(self) -> list[str]:
        return self._declared("optFlags")

    def _declared(self, attribute: str) -> list[str]:
        bases = type(self).__mro__
        return [entry[0] for base in bases for entry in base.__dict__.get(attribute, ())]

    def settings(self) -> NodeSettings:
        """The checked settings."""
        state_dir = Path(self["state-dir"]).expanduser().absolute()
        secret = self["secret-file"]
        return NodeSettings(
            state_dir=state_dir,
            listen=tuple(self["listen"]),
            secret_file=Path(secret).expanduser() if secret else state_dir / "secret",
            outside_url=self["outside-url"],
            allow_empty_root_password=bool(self["allow-empty-root-password"]),
            search=not self["no-search"],
            require_node_keys=bool(self["require-node-keys"]),
            region=self["region"] or None,
            networks=self["networks"],
            weight=self["weight"],
            trusted_proxies=self["trusted-proxies"],
            cache_bytes=self["cache-size"],
            scrub_rate=self["scrub-rate"],
        )


def _weight(value: str | None) -> int:
    if value is None or value == "":
        return DEFAULT_WEIGHT
    if not re.fullmatch(r"[0-9]{1,4}", value, re.ASCII) or int(value) > MOST_WEIGHT:
        raise usage.UsageError(f"--weight must be a number from 0 to {MOST_WEIGHT}, not {value!r}")
    return int(value)


def size_option(option: str, value: str | None) -> int | None:
    """The bytes that an option asks for, None if it is absent; raises UsageError."""
    try:
        return parse_size(value) if value else None
    except InvalidRequest as error:
        raise usage.UsageError(f"--{option}: {error}") from None


def _networks(option: str, value: str | None) -> Networks:
    try:
        return parse_networks(value or "")
    except InvalidRequest as error:
        raise usage.UsageError(f"--{option}: {error}") from None


def check_url(option: str, value: str | None) -> None:
    """Raise UsageError unless an option's value is absent or an http(s) URL."""
    if value is None:
        return
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise usage.UsageError(f"--{option} must be a URL such as http://host:3141, not {value!r}")
    if "@" in parts.netloc:
        raise usage.UsageError(f"--{option} must not hold a user or password: status shows it")
