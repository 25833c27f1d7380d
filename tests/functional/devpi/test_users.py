"""devpi login, logoff, user and passwd."""

from __future__ import annotations

import pytest

from tests.functional.devpi.client import Client
from tests.functional.devpi.servers import (
    ROOT,
    Account,
    Deployment,
    Server,
    new_account,
    unique,
)
from tests.processes import basic, eventually

pytestmark = pytest.mark.functional


@pytest.fixture
def logged_in(bare: Client, account: Account) -> Client:
    """A client of the new user, connected to no index."""
    bare.use()
    bare.login(account)
    return bare


@pytest.fixture
def as_root(bare: Client) -> Client:
    """A client of root, connected to no index."""
    bare.use()
    bare("login", "root", "--password=")
    return bare


def test_login(bare: Client, account: Account) -> None:
    """A login is valid for devpi's ten hours, and `devpi use` shows it."""
    bare.use()
    assert f"logged in '{account.name}', credentials valid for 10.00 hours" in bare.login(account)
    assert f"(logged in as {account.name})" in bare("use")


def test_login_asks_for_the_password(bare: Client, account: Account) -> None:
    """Without --password the client asks."""
    bare.use()
    output = bare("login", account.name, stdin=f"{account.password}\n")
    assert f"logged in '{account.name}'" in output


@pytest.mark.parametrize("known", [True, False])
def test_login_refused(bare: Client, account: Account, known: bool) -> None:
    """A wrong password and an unknown user are told apart by nobody."""
    bare.use()
    user = account.name if known else "nobody"
    output = bare.fails("login", user, "--password", "wrong")
    assert f"401 Unauthorized: user '{user}' could not be authenticated" in output


def test_login_token_counts_on_both_nodes(
    server: Server, account: Account, deployment: Deployment
) -> None:
    """A token from one node opens both, as password of the user."""
    login = {"user": account.name, "password": account.password}
    result = server.made("POST", "/+login", login)
    assert result["expiration"] == 36000
    auth = basic(account.name, result["password"])
    expected = ["ok", account.name]
    for node in (deployment.primary, deployment.replica):

        def known(node: Server = node) -> bool:
            return bool(node.result("/+api", auth)["authstatus"][:2] == expected)

        eventually(known, 10, f"the login on the {node.name}")


@pytest.mark.parametrize("command", ["logoff", "logout"])
def test_logoff(logged_in: Client, command: str) -> None:
    """The login can be forgotten; the second time there is none."""
    assert "login information deleted" in logged_in(command)
    assert "not logged in" in logged_in(command)
    assert "(not logged in)" in logged_in("use")


def test_login_of_a_deleted_user_is_dropped(
    logged_in: Client, server: Server, account: Account
) -> None:
    """`devpi use` notices that the user is gone."""
    server.made("DELETE", f"/{account.name}", None, ROOT)
    assert "(not logged in)" in logged_in("use")


def test_password_change_revokes_logins(
    logged_in: Client, server: Server, account: Account, ours: None
) -> None:
    """Who holds an old login token is out once the password is another."""
    server.made("PATCH", f"/{account.name}", {"password": "quite another"}, account.auth)
    assert "(not logged in)" in logged_in("use")


def test_two_logins_side_by_side(logged_in: Client, server: Server, account: Account) -> None:
    """`devpi use -u` and DEVPI_USER switch between the logins of one server."""
    second = new_account(server)
    logged_in.login(second)
    assert f"(logged in as {second.name})" in logged_in("use", server.url)
    assert f"(logged in as {account.name})" in logged_in("use", "-u", account.name, server.url)
    assert f"(logged in as {second.name})" in logged_in("use", environ={"DEVPI_USER": second.name})


def test_create(bare: Client, server: Server) -> None:
    """Everybody may create a user, who can then log in."""
    name = unique("new")
    bare.use()
    output = bare("user", "-c", name, "password=some password", "email=new@mail.example")
    assert f"user created: {name}" in output
    assert "logged in" in bare("login", name, "--password", "some password")
    assert server.result(f"/{name}")["email"] == "new@mail.example"


def test_create_asks_for_the_password(bare: Client) -> None:
    """Without password= the client asks twice."""
    name = unique("new")
    bare.use()
    bare("user", "-c", name, stdin="long enough\nlong enough\n")
    bare("login", name, "--password", "long enough")


def test_create_twice(bare: Client, account: Account) -> None:
    """A taken name is refused."""
    bare.use()
    output = bare.fails("user", "-c", account.name, "password=12345678")
    assert "409 Conflict: user already exists" in output


@pytest.mark.parametrize("name", ["a~b", "a b", "a!b"])
def test_create_bad_name(bare: Client, name: str) -> None:
    """Names that URLs cannot hold are refused."""
    bare.use()
    output = bare.fails("user", "-c", name, "password=12345678")
    assert f"400 Bad Request: username '{name}' contains characters that aren't allowed" in output


def test_create_unknown_key(bare: Client) -> None:
    """A key that devpi does not know is refused by its name."""
    bare.use()
    output = bare.fails("user", "-c", unique("new"), "password=12345678", "shoe_size=43")
    assert "400 Bad Request" in output
    assert "shoe_size" in output


def test_list(bare: Client, account: Account) -> None:
    """The list of users is open and sorted."""
    bare.use()
    names = bare("user", "-l").splitlines()
    assert {"root", account.name} <= set(names)
    assert names == sorted(names)


def test_show(logged_in: Client, server: Server, account: Account) -> None:
    """Without an action the user's configuration is shown, without any password material."""
    options = {"title": "A title", "custom_data": "own", "description": "What for"}
    server.made("PATCH", f"/{account.name}", options, account.auth)
    output = logged_in("user", account.name)
    assert output == logged_in("user")
    assert output.splitlines()[0] == f"{server.url}/{account.name}:"
    assert {"  title=A title", "  custom_data=own", "  description=What for"} <= set(
        output.splitlines()
    )
    assert "created=20" in output
    assert "modified=20" in output
    assert "pw" not in output
    assert "password" not in output


def test_show_unknown(bare: Client) -> None:
    """Who does not exist cannot be shown."""
    bare.use()
    name = unique("nobody")
    code, output = bare.run("user", name)
    assert code != 0
    assert f"404 Not Found: no user '{name}'" in output


@pytest.mark.parametrize("flags", [["-m"], []])
def test_modify(logged_in: Client, server: Server, account: Account, flags: list[str]) -> None:
    """A user changes what the configuration says."""
    output = logged_in("user", *flags, account.name, "email=other@mail.example", "title=T")
    assert f"user modified: {account.name}" in output
    config = server.result(f"/{account.name}")
    assert (config["email"], config["title"]) == ("other@mail.example", "T")


def test_modify_to_nothing(logged_in: Client, server: Server, account: Account) -> None:
    """An empty value takes the key away."""
    logged_in("user", "-m", account.name, "email=other@mail.example")
    logged_in("user", "-m", account.name, "email=")
    assert "email" not in server.result(f"/{account.name}")


def test_modify_password(logged_in: Client, account: Account) -> None:
    """A new password counts at once, and the old one no more."""
    output = logged_in("user", "-m", account.name, "password=quite another")
    assert "quite another" not in output
    logged_in.fails("login", account.name, "--password", account.password)
    logged_in("login", account.name, "--password", "quite another")


def test_modify_another(logged_in: Client, server: Server) -> None:
    """Users have no say over others."""
    other = new_account(server)
    output = logged_in.fails("user", "-m", other.name, "email=mine@mail.example")
    assert "403 Forbidden" in output


def test_modify_by_root(as_root: Client, server: Server, account: Account) -> None:
    """Root may change everybody."""
    as_root("user", "-m", account.name, "email=given@mail.example", "password=set by root")
    assert server.result(f"/{account.name}")["email"] == "given@mail.example"
    as_root("login", account.name, "--password", "set by root")


def test_passwd(logged_in: Client, account: Account) -> None:
    """`devpi passwd` asks twice and changes the password of who is logged in."""
    logged_in("passwd", stdin="another one\nanother one\n")
    logged_in("login", account.name, "--password", "another one")


def test_passwd_of_another(as_root: Client, account: Account) -> None:
    """`devpi passwd USER` by root."""
    as_root("passwd", account.name, stdin="set by root\nset by root\n")
    as_root("login", account.name, "--password", "set by root")


def test_passwd_of_another_refused(logged_in: Client, server: Server) -> None:
    """`devpi passwd USER` by somebody else."""
    other = new_account(server)
    output = logged_in.fails("passwd", other.name, stdin="hello there\nhello there\n")
    assert "403 Forbidden" in output


def test_delete(logged_in: Client, account: Account) -> None:
    """Users may delete themselves, with their indexes."""
    logged_in("index", "-c", "dev")
    assert f"user deleted: {account.name}" in logged_in("user", "--delete", account.name, "-y")
    assert account.name not in logged_in("user", "-l").splitlines()
    logged_in.fails("login", account.name, "--password", account.password)


def test_delete_declined(logged_in: Client, server: Server, account: Account) -> None:
    """Who answers no deletes nothing."""
    logged_in("user", "--delete", account.name, stdin="no\n")
    assert server.result(f"/{account.name}")["username"] == account.name


def test_delete_another(logged_in: Client, server: Server) -> None:
    """Users cannot delete others."""
    other = new_account(server)
    assert "403 Forbidden" in logged_in.fails("user", "--delete", other.name, "-y")


def test_delete_by_root(as_root: Client, account: Account) -> None:
    """Root may delete everybody but root, who always stays."""
    as_root("user", "--delete", account.name, "-y")
    assert account.name not in as_root("user", "-l").splitlines()
    assert "403 Forbidden" in as_root.fails("user", "--delete", "root", "-y")
    assert "404 Not Found" in as_root.fails("user", "--delete", account.name, "-y")


def test_delete_with_kept_index(logged_in: Client, account: Account) -> None:
    """A user with a non-volatile index cannot be deleted."""
    logged_in("index", "-c", "prod", "volatile=False")
    output = logged_in.fails("user", "--delete", account.name, "-y")
    assert "403 Forbidden" in output
    assert "volatile" in output
