"""Login tokens: any node makes and checks them, and a password change ends them."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from cluster.auth.logins import LOGIN_SECONDS, login_user, make_login, verify_login
from cluster.auth.tokens import parse
from cluster.errors import AuthenticationRequired
from cluster.model import User

SECRET = b"the secret of the cluster"
NOW = 1_700_000_000.0
ANN = User("ann", "a" * 64, {"created": "2024-01-01T00:00:00Z"})


def test_a_token_names_its_user() -> None:
    """A token made on one node is good on any that has the secret."""
    token = make_login(SECRET, ANN, NOW)
    assert login_user(token) == "ann"
    assert verify_login(SECRET, token, ANN, NOW) == "ann"


@pytest.mark.parametrize("age", [-301, LOGIN_SECONDS + 1])
def test_its_time_is_bounded(age: float) -> None:
    """A token is refused after ten hours, and one from the future."""
    token = make_login(SECRET, ANN, NOW)
    for good in (-299, 0, LOGIN_SECONDS):
        assert verify_login(SECRET, token, ANN, NOW + good) == "ann"
    with pytest.raises(AuthenticationRequired, match="expired"):
        verify_login(SECRET, token, ANN, NOW + age)


@pytest.mark.parametrize(
    "user",
    [
        evolve(ANN, password="b" * 64),
        evolve(ANN, password=None),
        evolve(ANN, options={"created": "2025-01-01T00:00:00Z"}),
        evolve(ANN, name="bob"),
        None,
    ],
)
def test_it_is_bound_to_password_and_birth(user: User | None) -> None:
    """Another password, a user made anew, another user or none: the token is no good."""
    token = make_login(SECRET, ANN, NOW)
    with pytest.raises(AuthenticationRequired, match="not valid"):
        verify_login(SECRET, token, user, NOW)


def test_other_options_leave_it_alone() -> None:
    """A new e-mail address does not end a login."""
    user = evolve(ANN, options={**ANN.options, "email": "ann@ann.example"})
    assert verify_login(SECRET, make_login(SECRET, ANN, NOW), user, NOW) == "ann"


def test_another_secret() -> None:
    """A token of another cluster is no good."""
    with pytest.raises(AuthenticationRequired):
        verify_login(SECRET, make_login(b"other", ANN, NOW), ANN, NOW)


def test_every_changed_character_breaks_it() -> None:
    """No position of a token can be changed."""
    token = make_login(SECRET, ANN, NOW)
    for at in range(len(token)):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(AuthenticationRequired):
            verify_login(SECRET, changed, ANN, NOW)


@given(st.text())
def test_passwords_are_not_mistaken(text: str) -> None:
    """Any text can be asked about; only what has the prefix can be a login token."""
    assert login_user(text) is None or text.startswith("pymlogin.")
    login_user(f"pymlogin.{text}")
    assert parse(text) is None
    with pytest.raises(AuthenticationRequired):
        verify_login(SECRET, text, ANN, NOW)


@given(st.text(min_size=1).filter(lambda name: name.isprintable()))
def test_every_user_can_log_in(name: str) -> None:
    """Names of any letters go through."""
    user = User(name, "c" * 64)
    token = make_login(SECRET, user, NOW)
    assert login_user(token) == name
    assert token.isascii()
    assert verify_login(SECRET, token, user, NOW) == name
