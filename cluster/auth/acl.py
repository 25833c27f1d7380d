"""Who may do what (pure; devpi-api §6-§7, and docs/access.md, which a test compares with this).

Every function that begins with `require_` raises AuthenticationRequired for the anonymous
(clients send credentials only after a 401), and Forbidden for somebody known; what one may not
read does not exist for somebody known: NotFound.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve, frozen

from cluster.auth.tokens import READ, UPLOAD, TokenLimits
from cluster.errors import AuthenticationRequired, Forbidden, NotFound
from cluster.model import HostedIndex, Index
from cluster.names import IndexName

ROOT = "root"
ANYBODY = ":ANONYMOUS:"
KNOWN = ":AUTHENTICATED:"


@frozen
class Principal:
    """Who asks: a user's name, or None for nobody we know.

    `token` limits what is allowed when an API token was given in place of a password.
    """

    name: str | None = None
    token: TokenLimits | None = None


ANONYMOUS = Principal()

Restricted = frozenset[str] | None
"""``--restrict-modify``: the only ones who may create and change users and indexes; None: off."""


def owner_of(name: IndexName) -> str:
    """The user below whom an index stands."""
    return name.partition("/")[0]


def _person(who: Principal) -> Principal:
    # A token for uploads does not let its holder read, but gives no way to what its user may not.
    return evolve(who, token=None)


def _listed(who: Principal, acl: Iterable[str]) -> bool:
    names = set(acl)
    return ANYBODY in names or (who.name is not None and bool({who.name, KNOWN} & names))


def may_read(who: Principal, index: Index, project: str | None = None) -> bool:
    """Whether somebody may see an index, or a project on it: pages, files, its very existence."""
    if ANYBODY in index.acl_pkg_read:
        return True
    if who.token is not None and not who.token.allows(READ, index.name, project):
        return False
    return who.name in (ROOT, owner_of(index.name)) or _listed(
        who, (*index.acl_pkg_read, *index.acl_admin)
    )


def require_read(who: Principal, index: Index, project: str | None = None) -> None:
    """Reading takes being in `acl_pkg_read` or `acl_admin`, being the owner, or root."""
    if may_read(who, index, project):
        return
    if who.name is None:
        raise AuthenticationRequired(f"reading {index.name} needs a user and a password")
    raise NotFound(f"The stage {index.name} could not be found.")


def require_upload(who: Principal, index: HostedIndex, project: str | None = None) -> None:
    """Uploading takes being in `acl_upload`, also for the owner and for root.

    `project` is None while it is not known yet: the rest is checked already then.
    """
    require_read(_person(who), index)
    if who.token is not None:
        limits = evolve(who.token, projects=()) if project is None else who.token
        if not limits.allows(UPLOAD, index.name, project):
            raise Forbidden(
                f"this token is not for uploads of {project or 'files'} to {index.name}"
            )
    if _listed(who, index.acl_upload):
        return
    if who.name is None:
        raise AuthenticationRequired(f"uploading to {index.name} needs a user and a password")
    raise Forbidden(f"{who.name} has no permission to submit to {index.name}")


def require_external_push(who: Principal, index: Index, project: str) -> None:
    """Having a node send files to a server elsewhere: who may upload to the index that has them
    (but not the anonymous, whatever `acl_upload` says), its owner, and root.

    Such a node sends requests to wherever it is told: that is not for everybody who may read.
    """
    if who.name is None:
        raise AuthenticationRequired(f"pushing from {index.name} needs a user and a password")
    require_read(who, index, project)
    if who.token is None and who.name in (ROOT, owner_of(index.name)):
        return
    if not isinstance(index, HostedIndex):
        raise Forbidden(f"{who.name} has no permission to push from {index.name} to elsewhere")
    require_upload(who, index, project)


def require_toxresult(who: Principal, index: Index, project: str) -> None:
    """Uploading a test's result takes being in `acl_toxresult_upload`."""
    require_read(_person(who), index)
    if who.token is not None and not who.token.allows(UPLOAD, index.name, project):
        raise Forbidden(f"this token is not for test results of {project} on {index.name}")
    acl = index.acl_toxresult_upload if isinstance(index, HostedIndex) else (ANYBODY,)
    if _listed(who, acl):
        return
    # devpi-client shows this message, and takes a 401 for the end of its login.
    raise Forbidden(
        f"No permission to upload tox results. {who.name or 'anonymous'} is not in "
        f"acl_toxresult_upload of {index.name}"
    )


def require_delete(who: Principal, index: Index) -> None:
    """Removing files, yanking, and setting a project's status: uploaders, admins, owner, root."""
    _require_known(who, f"removing from {index.name}")
    require_read(who, index)
    uploaders = index.acl_upload if isinstance(index, HostedIndex) else ()
    acl = {*uploaders, *index.acl_admin} - {ANYBODY}
    if who.name not in (ROOT, owner_of(index.name)) and not _listed(who, acl):
        raise Forbidden(f"{who.name} has no permission to remove from {index.name}")


def require_configure(
    who: Principal,
    name: IndexName,
    index: Index | None = None,
    restricted: Restricted = None,
) -> None:
    """An index is changed by its owner, by root, and by those in its `acl_admin`; it is made
    (`index` is None) by owner and root. `restricted` leaves it to those it names.
    """
    _require_known(who, f"changing {name}")
    if _may_modify(who, owner_of(name), restricted):
        return
    if index is not None:
        require_read(who, index)
        if restricted is None and _listed(who, set(index.acl_admin) - {ANYBODY}):
            return
    raise Forbidden(f"{who.name} has no permission to change {name}")


def require_user_creation(who: Principal, restricted: Restricted = None) -> None:
    """Everybody may create users, unless `restricted` names those who may."""
    if restricted is None and who.name is None:
        return
    _require_known(who, "creating users")
    if restricted is not None and not _listed(who, restricted):
        raise Forbidden(f"{who.name} has no permission to create users")


def require_user_change(who: Principal, user: str, restricted: Restricted = None) -> None:
    """A user is changed and removed by that user and by root, or by those in `restricted`."""
    _require_known(who, f"changing user {user}")
    if not _may_modify(who, user, restricted):
        raise Forbidden(f"{who.name} has no permission to modify user {user}")


def require_password_change(who: Principal, user: str, restricted: Restricted = None) -> None:
    """A password is changed by its user, whatever `restricted` says, and by who may change it."""
    _require_known(who, f"changing the password of {user}")
    if who.name != user and not _may_modify(who, user, restricted):
        raise Forbidden(f"{who.name} has no permission to change the password of {user}")


def _may_modify(who: Principal, owner: str, restricted: Restricted) -> bool:
    if restricted is None:
        return who.name in (ROOT, owner)
    return _listed(who, restricted)


def require_root(who: Principal, what: str) -> None:
    """Some things only root may do."""
    _require_known(who, what)
    if who.name != ROOT:
        raise Forbidden(f"{what} is for root alone")


def _require_known(who: Principal, what: str) -> None:
    if who.name is None:
        raise AuthenticationRequired(f"{what} needs a user and a password")
    if who.token is not None:
        raise Forbidden(f"{what} is not for API tokens: log in with the user's password")
