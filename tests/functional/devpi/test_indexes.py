"""devpi index."""

from __future__ import annotations

import pytest

from tests.functional.devpi.client import Client
from tests.functional.devpi.servers import (
    ROOT,
    Account,
    Server,
    new_account,
    new_index,
    unique,
)

pytestmark = pytest.mark.functional


def _lines(output: str) -> set[str]:
    return {line.strip() for line in output.splitlines()}


def test_create(devpi: Client, server: Server, account: Account) -> None:
    """A new index has devpi's defaults and is shown."""
    output = devpi("index", "-c", "new")
    assert output.splitlines()[0] == f"{server.url}/{account.name}/new?no_projects=:"
    assert {
        "type=stage", "bases=", "volatile=True", f"acl_upload={account.name}",
        "acl_toxresult_upload=:ANONYMOUS:", "mirror_whitelist=",
        "mirror_whitelist_inheritance=intersection",
    } <= _lines(output)  # fmt: skip


def test_create_with_options(devpi: Client, dev: str) -> None:
    """Every option of a hosted index can be given at its birth."""
    output = devpi(
        "index", "-c", "new", f"bases={dev}", "volatile=no", "acl_upload=:anonymous:,ann",
        "acl_toxresult_upload=:AUTHENTICATED:", "mirror_whitelist=Some_Name,*",
        "mirror_whitelist_inheritance=union", "title=A title", "description=D", "custom_data=x",
    )  # fmt: skip
    assert {
        f"bases={dev}", "volatile=False", "acl_upload=:ANONYMOUS:,ann",
        "acl_toxresult_upload=:AUTHENTICATED:", "mirror_whitelist=some-name,*",
        "mirror_whitelist_inheritance=union", "title=A title", "description=D", "custom_data=x",
    } <= _lines(output)  # fmt: skip


def test_create_mirror(devpi: Client) -> None:
    """Every option of a mirror can be given at its birth."""
    output = devpi(
        "index", "-c", "up", "type=mirror", "mirror_url=http://up.example/simple/",
        "mirror_web_url_fmt=http://up.example/{name}", "mirror_cache_expiry=60",
        "mirror_use_external_urls=True", "mirror_no_project_list=yes",
        "mirror_ignore_serial_header=true", "volatile=false", "title=T",
    )  # fmt: skip
    assert {
        "type=mirror", "mirror_url=http://up.example/simple/", "mirror_cache_expiry=60",
        "mirror_web_url_fmt=http://up.example/{name}", "mirror_use_external_urls=True",
        "mirror_no_project_list=True", "mirror_ignore_serial_header=True", "volatile=False",
        "title=T",
    } <= _lines(output)  # fmt: skip


def test_create_mirror_with_bases(devpi: Client, dev: str) -> None:
    """A mirror has no bases; they are taken and left, as the owner's guide needs."""
    output = devpi("index", "-c", "up", "type=mirror", f"bases={dev}")
    assert "type=mirror" in _lines(output)
    assert f"bases={dev}" not in _lines(output)


def test_create_twice(devpi: Client) -> None:
    """A taken name is refused."""
    assert "409 Conflict" in devpi.fails("index", "-c", "dev")


def test_create_for_a_user_by_root(bare: Client, server: Server, account: Account) -> None:
    """Root may create an index of anybody; who owns it may upload."""
    bare.use()
    bare("login", "root", "--password=")
    output = bare("index", "-c", f"{account.name}/given")
    assert f"acl_upload={account.name}" in _lines(output)


def test_create_for_another(devpi: Client, server: Server) -> None:
    """Nobody else may."""
    other = new_account(server)
    output = devpi.fails("index", "-c", f"{other.name}/mine")
    assert "403 Forbidden" in output


def test_create_for_nobody(bare: Client) -> None:
    """An index needs a user."""
    bare.use()
    bare("login", "root", "--password=")
    assert "404 Not Found" in bare.fails("index", "-c", "nobody/dev")


def test_create_without_login(bare: Client, dev: str) -> None:
    """The client asks for a login first."""
    bare.use(dev)
    assert "you need to be logged in" in bare.fails("index", "-c", "other/new")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("bases=not/there", "base index 'not/there' does not exist"),
        ("bases=a/b/c", "invalid base index spec: 'a/b/c'"),
        ("type=strange", "strange"),
        ("volatile=perhaps", "perhaps"),
        ("shoe_size=43", "indexconfig got unexpected keyword arguments: shoe_size"),
        ("mirror_whitelist_inheritance=sum", "sum"),
    ],
)
def test_create_refused(devpi: Client, option: str, said: str) -> None:
    """A bad option is refused and named."""
    output = devpi.fails("index", "-c", "bad", option)
    assert "400 Bad Request" in output
    assert said in output


@pytest.mark.parametrize(
    "option", ["mirror_url=ftp://up.example/", "mirror_cache_expiry=soon", "acl_upload=x"]
)
def test_create_mirror_options(devpi: Client, option: str) -> None:
    """Options of mirrors are checked; those of hosted indexes that devpi drops are dropped."""
    dropped = option.startswith("acl")
    code, output = devpi.run("index", "-c", "up", "type=mirror", option)
    assert (code == 0) == dropped, output
    assert ("400 Bad Request" in output) != dropped
    assert option not in _lines(output)


@pytest.mark.parametrize("name", ["a b", "a!b", "a~b"])
def test_create_bad_name(devpi: Client, name: str) -> None:
    """Names that URLs cannot hold are refused."""
    output = devpi.fails("index", "-c", name)
    assert "400 Bad Request" in output
    assert "contains characters that aren't allowed" in output


def test_list(devpi: Client, server: Server, account: Account) -> None:
    """-l lists the indexes of who is logged in, or of another user."""
    other = new_account(server)
    theirs = new_index(server, other, "theirs")
    new_index(server, account, "also")
    assert devpi("index", "-l").splitlines() == [f"{account.name}/also", account.dev]
    assert devpi("index", "-l", other.name).splitlines() == [theirs]


def test_show(devpi: Client, server: Server, dev: str) -> None:
    """Without an action the configuration is shown: of the current index or a named one."""
    assert devpi("index").splitlines()[0] == f"{server.url}/{dev}:"
    assert devpi("index", dev) == devpi("index")
    assert (
        devpi("index", "--no-projects", "dev").splitlines()[1:] == (devpi("index").splitlines()[1:])
    )


def test_show_unknown(devpi: Client) -> None:
    """An index that does not exist cannot be shown."""
    assert devpi.run("index", "nobody/nothing")[0] != 0


def test_set(devpi: Client, server: Server, dev: str) -> None:
    """k=v sets several options at once, of the current index or of a named one."""
    output = devpi("index", "title=A title", "volatile=no")
    assert {"title=A title", "volatile=False"} <= _lines(output)
    devpi("index", dev, "volatile=yes", "acl_upload=ann, bob")
    config = server.result(f"/{dev}")
    assert (config["title"], config["volatile"]) == ("A title", True)
    assert config["acl_upload"] == ["ann", "bob"]


def test_add(devpi: Client, server: Server, account: Account, dev: str) -> None:
    """k+=v appends, and what is there already is not appended again."""
    devpi("index", "acl_upload+=ann", "mirror_whitelist+=Some_Name")
    devpi("index", "acl_upload+=ann", "mirror_whitelist+=other")
    config = server.result(f"/{dev}")
    assert config["acl_upload"] == [account.name, "ann"]
    assert config["mirror_whitelist"] == ["some-name", "other"]


def test_remove(devpi: Client, server: Server, account: Account, dev: str) -> None:
    """k-=v takes out, and what is not there cannot be taken out."""
    devpi("index", "acl_upload=ann,bob,cid")
    devpi("index", "acl_upload-=bob")
    assert server.result(f"/{dev}")["acl_upload"] == ["ann", "cid"]
    assert "400 Bad Request" in devpi.fails("index", "acl_upload-=bob")


def test_drop(devpi: Client, server: Server, dev: str) -> None:
    """k-= drops an option that has no default; one that has a default stays."""
    devpi("index", "title=T", "description=D")
    devpi("index", "title-=")
    config = server.result(f"/{dev}")
    assert "title" not in config
    assert config["description"] == "D"
    output = devpi.fails("index", "volatile-=")
    assert "400 Bad Request" in output
    assert "Default values can't be removed." in output


def test_add_and_remove_bases(devpi: Client, server: Server, account: Account, dev: str) -> None:
    """Bases are a list in resolution order, checked on every change."""
    first, second = (new_index(server, account, name) for name in ("first", "second"))
    devpi("index", f"bases={first}")
    devpi("index", f"bases+={second}")
    assert server.result(f"/{dev}")["bases"] == [first, second]
    devpi("index", f"bases-={first}")
    assert server.result(f"/{dev}")["bases"] == [second]
    assert "does not exist" in devpi.fails("index", "bases+=not/there")


def test_add_to_an_unset_option(devpi: Client, ours: None) -> None:
    """What is no list, or not set, is refused as a mistake of the client's."""
    assert "400 Bad Request" in devpi.fails("index", "title+=x")
    devpi("index", "title=T")
    assert "400 Bad Request" in devpi.fails("index", "title-=T")


def test_empty_list(devpi: Client, server: Server, dev: str) -> None:
    """k= makes a list empty: then nobody may upload."""
    devpi("index", "acl_upload=")
    assert server.result(f"/{dev}")["acl_upload"] == []


@pytest.mark.parametrize("option", ["type=mirror", "volatile=perhaps", "shoe_size=43"])
def test_set_refused(devpi: Client, server: Server, dev: str, option: str) -> None:
    """A bad change is refused and changes nothing."""
    before = server.result(f"/{dev}")
    assert "400 Bad Request" in devpi.fails("index", option)
    assert server.result(f"/{dev}") == before


def test_set_mirror(devpi: Client, server: Server, account: Account) -> None:
    """A mirror is changed by the same operators."""
    up = new_index(server, account, "up", type="mirror", mirror_url="http://up.example/")
    devpi("index", up, "mirror_cache_expiry=5", "mirror_url=http://other.example/simple/")
    config = server.result(f"/{up}?no_projects=")
    assert config["mirror_cache_expiry"] == 5
    assert config["mirror_url"] == "http://other.example/simple/"
    devpi("index", up, "mirror_cache_expiry-=")
    assert "mirror_cache_expiry" not in server.result(f"/{up}?no_projects=")


def test_set_of_another(devpi: Client, server: Server) -> None:
    """Only the owner and root change an index."""
    theirs = new_index(server, new_account(server))
    assert "403 Forbidden" in devpi.fails("index", theirs, "title=mine")
    devpi("login", "root", "--password=")
    devpi("index", theirs, "title=given")
    assert server.result(f"/{theirs}")["title"] == "given"


def test_nothing_changed(devpi: Client, server: Server, dev: str) -> None:
    """A change to what is there already makes no new serial."""
    devpi("index", "title=T")
    before = server.call("GET", f"/{dev}").headers["x-devpi-serial"]
    devpi("index", "title=T")
    assert server.call("GET", f"/{dev}").headers["x-devpi-serial"] == before


def test_delete(devpi: Client, account: Account) -> None:
    """--delete asks, and removes the index."""
    devpi("index", "--delete", "dev", stdin="no\n")
    assert account.dev in devpi("index", "-l").splitlines()
    assert "index deleted" in devpi("index", "--delete", "dev", "-y")
    assert account.dev not in devpi("index", "-l").splitlines()


def test_delete_refused(devpi: Client, server: Server) -> None:
    """Indexes that are non-volatile, somebody else's or not there are not deleted."""
    theirs = new_index(server, new_account(server))
    devpi("index", "-c", "prod", "volatile=False")
    assert "403 Forbidden" in devpi.fails("index", "--delete", "prod", "-y")
    assert "403 Forbidden" in devpi.fails("index", "--delete", theirs, "-y")
    devpi.fails("index", "--delete", "nothing", "-y")


def test_delete_a_base(devpi: Client, server: Server, account: Account, dev: str) -> None:
    """A base may be deleted; the index above goes on without it."""
    top = new_index(server, account, "top", bases=[dev])
    devpi("index", "--delete", "dev", "-y")
    assert server.call("GET", f"/{top}/+simple/").status == 200


def test_root_pypi_like_names(bare: Client, server: Server) -> None:
    """Names may hold dots, dashes, underscores, @ and letters of any script."""
    name = unique("a.b-c_d@e-é")
    server.made("PUT", f"/root/{unique('plain')}", {}, ROOT)
    bare.use()
    bare("login", "root", "--password=")
    bare("index", "-c", f"root/{name}")
    assert f"root/{name}" in bare("index", "-l")
