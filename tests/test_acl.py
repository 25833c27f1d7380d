"""Rights of API tokens beside those of their users: a token never opens what its user may not."""

from __future__ import annotations

import pytest

from cluster.auth.acl import Principal, require_toxresult, require_upload
from cluster.auth.tokens import UPLOAD, TokenLimits
from cluster.errors import NotFound
from cluster.model import HostedIndex
from cluster.names import IndexName, NormalizedName

DEMO = NormalizedName("demo")
CLOSED = HostedIndex(
    IndexName("team/closed"),
    acl_upload=("ann", "bob"),
    acl_toxresult_upload=(":ANONYMOUS:",),
    acl_pkg_read=("ann",),
)
UPLOADS = TokenLimits(frozenset({UPLOAD}))


def by_token(user: str) -> Principal:
    """Somebody with a token for uploads that they have made themselves."""
    return Principal(user, UPLOADS)


@pytest.mark.parametrize("user", ["bob", "eve"])
def test_hidden_from_tokens(user: str) -> None:
    """Who may not read an index does not learn by a token that it exists, and writes nothing."""
    with pytest.raises(NotFound):
        require_upload(by_token(user), CLOSED, DEMO)
    with pytest.raises(NotFound):
        require_toxresult(by_token(user), CLOSED, DEMO)


@pytest.mark.parametrize("limits", [TokenLimits(frozenset({UPLOAD}), ("eve/own",)), UPLOADS])
def test_hidden_from_limited_tokens(limits: TokenLimits) -> None:
    """Nor by one that is for something else."""
    with pytest.raises(NotFound):
        require_upload(Principal("eve", limits), CLOSED)


@pytest.mark.parametrize("user", ["ann", "team"])
def test_readers_upload_by_tokens(user: str) -> None:
    """A token for uploads needs no right to read of its own: its user's is enough."""
    require_toxresult(by_token(user), CLOSED, DEMO)
    require_upload(by_token("ann"), CLOSED, DEMO)
