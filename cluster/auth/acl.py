"""Who may do what on an index (pure; devpi-api §6-§7)."""

from __future__ import annotations

from attrs import frozen

from cluster.errors import AuthenticationRequired, Forbidden
from cluster.model import HostedIndex
from cluster.names import IndexName

ROOT = "root"


@frozen
class Principal:
    """Who asks: a user's name, or None for nobody we know."""

    name: str | None = None


ANONYMOUS = Principal()


def require_upload(who: Principal, index: HostedIndex) -> None:
    """Uploading takes being listed in `acl_upload`, also for the owner and for root.

    Raises AuthenticationRequired for the anonymous (clients send credentials only after a 401),
    Forbidden for others.
    """
    if ":ANONYMOUS:" in index.acl_upload:
        return
    if who.name is None:
        raise AuthenticationRequired(f"uploading to {index.name} needs a user and a password")
    if who.name not in index.acl_upload and ":AUTHENTICATED:" not in index.acl_upload:
        raise Forbidden(f"{who.name} has no permission to submit to {index.name}")


def require_configure(who: Principal, name: IndexName) -> None:
    """An index is created and changed by its owner and by root."""
    if who.name is None:
        raise AuthenticationRequired(f"changing {name} needs a user and a password")
    if who.name not in (ROOT, name.partition("/")[0]):
        raise Forbidden(f"{who.name} has no permission to change {name}")
