"""Command-line options that both commands share; each also as an environment variable."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from attrs import frozen
from twisted.python import usage

ENVIRONMENT_PREFIX = "PYMIRROR_"
DEFAULT_LISTEN = "tcp:3141:interface=127.0.0.1"


@frozen
class NodeSettings:
    """What every node must know to run."""

    state_dir: Path
    listen: tuple[str, ...]
    secret_file: Path
    outside_url: str | None
    allow_empty_root_password: bool = False
    search: bool = True


class NodeOptions(usage.Options):
    """Options of a node. What the command line leaves out comes from the environment."""

    default_state_dir = "~/.pymirror"

    optParameters = [  # noqa: RUF012 - the interface of usage.Options
        ["state-dir", None, None, "Folder for the log, the index state and files."],
        ["secret-file", None, None, "File with the secret that the nodes of a cluster share "
         "[default: STATE-DIR/secret]."],
        ["outside-url", None, None, "URL at which clients reach this node, for status and "
         "other nodes."],
    ]  # fmt: skip

    optFlags = [  # noqa: RUF012 - the interface of usage.Options
        ["allow-empty-root-password", None, "Let a user without a password (root, at first) log "
         "in from everywhere, not only from this machine."],
        ["no-search", None, "Keep no search index; pip search and /+search are answered with an "
         "error."],
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []

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
                self[name] = value.split(",") if name == "listen" else value
        for name in self._flags():
            value = os.environ.get(ENVIRONMENT_PREFIX + name.upper().replace("-", "_"))
            if value is not None:
                self[name] = self[name] or value.lower() in ("1", "true", "yes")
        self["listen"] = self["listen"] or [DEFAULT_LISTEN]
        self["state-dir"] = self["state-dir"] or self.default_state_dir
        check_url("outside-url", self["outside-url"])

    def _names(self) -> list[str]:
        return ["listen", *self._declared("optParameters")]

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
        )


def check_url(option: str, value: str | None) -> None:
    """Raise UsageError unless an option's value is absent or an http(s) URL."""
    if value is None:
        return
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise usage.UsageError(f"--{option} must be a URL such as http://host:3141, not {value!r}")
    if "@" in parts.netloc:
        raise usage.UsageError(f"--{option} must not hold a user or password: status shows it")
