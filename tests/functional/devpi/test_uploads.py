"""devpi upload, twine and uv publish."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import Built, sdist, wheel
from tests.functional.devpi.client import Client
from tests.functional.devpi.servers import (
    Account,
    Server,
    new_account,
    new_index,
    unique,
)
from tests.functional.devpi.sources import Tree, commit, doc_zip, install_sphinx, source_tree
from tests.installers import twine_upload, uv_publish, write_files
from tests.processes import http

pytestmark = pytest.mark.functional


@pytest.fixture
def name() -> str:
    """A project that no other case uploads."""
    return unique("up")


@pytest.fixture
def tree(tmp_path: Path, name: str) -> Tree:
    """A source tree of that project."""
    return source_tree(tmp_path / "source" / name, name)


def _bytes(server: Server, index: str, built: Built) -> bytes:
    """What the server has under a file's name, found through its links."""
    return http("GET", server.links(index, built.name)[built.filename]["href"]).body


@pytest.mark.parametrize("build", [wheel, sdist])
def test_file(
    devpi: Client, server: Server, dev: str, name: str, build: Callable[..., Built]
) -> None:
    """A wheel or an sdist by its path; the index has it byte for byte."""
    built = build(name, "1.0")
    output = devpi("upload", *write_files([built], devpi.home))
    assert f"file_upload of {built.filename} to {server.url}/{dev}/" in output
    assert _bytes(server, dev, built) == built.data


def test_several_files(devpi: Client, server: Server, dev: str, name: str) -> None:
    """Several paths at once become files of their versions."""
    built = [wheel(name, "1.0"), sdist(name, "1.0"), wheel(name, "2.0")]
    devpi("upload", *write_files(built, devpi.home))
    assert set(server.links(dev, name)) == {one.filename for one in built}
    assert set(server.result(f"/{dev}/{name}")) == {"1.0", "2.0"}


def test_metadata(devpi: Client, server: Server, dev: str, name: str) -> None:
    """The client sends the file's metadata, and the index keeps it."""
    built = wheel(name, "1.0", requires=["other>=2"], requires_python=">=3.8")
    devpi("upload", *write_files([built], devpi.home))
    metadata = server.result(f"/{dev}/{name}/1.0")
    assert metadata["summary"] == f"A test package called {name}"
    assert metadata["requires_python"] == ">=3.8"
    assert metadata["requires_dist"] == ["other>=2"]
    assert metadata["metadata_version"] == "2.4"


def test_from_dir(devpi: Client, server: Server, dev: str, name: str) -> None:
    """--from-dir uploads what lies in a folder and below; without it a folder is refused."""
    folder = devpi.home / "files"
    built = [wheel(name, "1.0"), wheel(name, "2.0")]
    write_files(built[:1], folder)
    write_files(built[1:], folder / "deeper")
    assert "is a directory but --from-dir not specified" in devpi.fails("upload", folder)
    devpi("upload", "--from-dir", folder)
    assert set(server.links(dev, name)) == {one.filename for one in built}


def test_only_latest(devpi: Client, server: Server, dev: str, name: str) -> None:
    """--only-latest leaves older versions out."""
    built = [wheel(name, version) for version in ("1.9", "1.10")]
    write_files(built, devpi.home / "files")
    devpi("upload", "--from-dir", "--only-latest", devpi.home / "files")
    assert set(server.links(dev, name)) == {built[1].filename}


def test_dry_run(devpi: Client, server: Server, dev: str, name: str) -> None:
    """--dry-run names what it would upload."""
    built = wheel(name, "1.0")
    output = devpi("upload", "--dry-run", *write_files([built], devpi.home))
    assert f"skipped: file_upload of {built.filename}" in output
    assert server.call("GET", f"/{dev}/{name}").status == 404


def test_index_option(devpi: Client, server: Server, account: Account, name: str) -> None:
    """--index uploads to another index than the current."""
    other = new_index(server, account, "other")
    built = wheel(name, "1.0")
    devpi("upload", "--index", other, *write_files([built], devpi.home))
    assert set(server.links(other, name)) == {built.filename}
    assert server.call("GET", f"/{account.dev}/{name}").status == 404


def test_build(devpi: Client, server: Server, dev: str, tree: Tree) -> None:
    """Without a path the current folder is built: an sdist and a wheel."""
    devpi("upload", "--no-isolation", cwd=tree.folder)
    files = {tree.wheel.filename, tree.sdist.filename}
    assert set(server.links(dev, tree.wheel.name)) == files
    assert _bytes(server, dev, tree.wheel) == tree.wheel.data


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (["--wheel"], {"wheel"}),
        (["--sdist"], {"sdist"}),
        (["--formats", "bdist_wheel"], {"wheel"}),
        (["--formats", "sdist,bdist_wheel"], {"wheel", "sdist"}),
        (["--no-vcs", "--wheel", "-p", "python3"], {"wheel"}),
    ],
)
def test_build_options(
    devpi: Client, server: Server, dev: str, tree: Tree, options: list[str], kinds: set[str]
) -> None:
    """What is built can be chosen."""
    devpi("upload", "--no-isolation", *options, cwd=tree.folder)
    built = {"wheel": tree.wheel, "sdist": tree.sdist}
    assert set(server.links(dev, tree.wheel.name)) == {built[kind].filename for kind in kinds}


@pytest.mark.parametrize("options", [[], ["--setupdir-only"], ["--no-vcs"]])
def test_build_in_a_repository(
    devpi: Client, server: Server, dev: str, tree: Tree, options: list[str]
) -> None:
    """A git checkout is exported first, unless it shall not be."""
    commit(tree.folder)
    output = devpi("upload", "--no-isolation", "--wheel", *options, cwd=tree.folder)
    assert ("copied repo" in output) == (not options)
    assert set(server.links(dev, tree.wheel.name)) == {tree.wheel.filename}


@pytest.mark.parametrize("only", [False, True])
def test_docs_of_a_tree(devpi: Client, server: Server, dev: str, tree: Tree, only: bool) -> None:
    """--with-docs uploads what Sphinx built as well, --only-docs nothing else."""
    install_sphinx(devpi.folder / "bin")
    option = "--only-docs" if only else "--with-docs"
    output = devpi("upload", "--no-isolation", "--wheel", option, cwd=tree.folder)
    docs = f"{tree.wheel.name}-1.0.doc.zip"
    assert f"doc_upload of {docs} to {server.url}/{dev}/" in output
    assert set(server.links(dev, tree.wheel.name, "doczip")) == {docs}
    files = set() if only else {tree.wheel.filename}
    assert set(server.links(dev, tree.wheel.name)) == files


def test_doc_zip(devpi: Client, server: Server, dev: str, name: str) -> None:
    """A documentation zip by its path, beside its release."""
    path = devpi.home / f"{name}-1.0.doc.zip"
    path.write_bytes(doc_zip(name))
    devpi("upload", *write_files([wheel(name, "1.0")], devpi.home), path)
    link = server.links(dev, name, "doczip")[path.name]
    assert http("GET", link["href"]).body == path.read_bytes()


def test_doc_tar_gz(devpi: Client, server: Server, dev: str, name: str) -> None:
    """Documentation in a tar is made a zip by the client."""
    path = devpi.home / f"{name}-1.0.doc.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("index.html")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"docs"))
    assert "repackaged" in devpi("upload", path)
    assert set(server.links(dev, name, "doczip")) == {f"{name}-1.0.doc.zip"}


def test_docs_without_a_version(devpi: Client, server: Server, dev: str, name: str) -> None:
    """Documentation that names no version is that of the newest; there must be one."""
    path = devpi.home / f"{name}.doc.zip"
    path.write_bytes(doc_zip(name))
    devpi.fails("upload", path)
    built = [wheel(name, "1.0"), wheel(name, "1.1")]
    devpi("upload", *write_files(built, devpi.home / "files"))
    devpi("upload", path)
    assert set(server.links(dev, name, "doczip")) == {f"{name}-1.1.doc.zip"}


@pytest.mark.parametrize("where", ["/{dev}/{name}/1.0/+doc/", "/{dev}/{name}/latest/+doc/"])
def test_docs_are_served(devpi: Client, server: Server, dev: str, name: str, where: str) -> None:
    """The pages of uploaded documentation can be read at once."""
    path = devpi.home / f"{name}-1.0.doc.zip"
    path.write_bytes(doc_zip(name))
    devpi("upload", *write_files([wheel(name, "1.0")], devpi.home), path)
    base = server.url + where.format(dev=dev, name=name)
    assert name.encode() in http("GET", f"{base}index.html").body
    assert http("GET", f"{base}sub/page.html").body == b"<p>Another page</p>"
    assert http("GET", f"{base}sub/none.html").status == 404


def test_overwrite(devpi: Client, server: Server, dev: str, name: str) -> None:
    """On a volatile index a file may be replaced, and its log says so."""
    first, second = wheel(name, "1.0"), wheel(name, "1.0", size=100)
    devpi("upload", *write_files([first], devpi.home))
    devpi("upload", *write_files([second], devpi.home))
    assert _bytes(server, dev, second) == second.data
    log = server.links(dev, name)[first.filename]["log"]
    assert [entry["what"] for entry in log] == ["overwrite", "upload"]
    assert (log[0]["count"], log[0]["who"]) == (1, None)


def test_again(devpi: Client, server: Server, account: Account, name: str) -> None:
    """On a non-volatile index the same file may come again; another of its name may not."""
    prod = new_index(server, account, "prod", volatile=False)
    first, second = wheel(name, "1.0"), wheel(name, "1.0", size=100)
    for _ in range(2):
        devpi("upload", "--index", prod, *write_files([first], devpi.home))
    output = devpi.fails("upload", "--index", prod, *write_files([second], devpi.home))
    assert "409 FAIL" in output
    assert f"{first.filename} already exists in non-volatile index" in output
    assert _bytes(server, prod, first) == first.data


def test_not_allowed(devpi: Client, server: Server, name: str) -> None:
    """Who is not in acl_upload cannot upload."""
    theirs = new_index(server, new_account(server))
    path = write_files([wheel(name, "1.0")], devpi.home)
    output = devpi.fails("upload", "--index", theirs, *path)
    assert "403 FAIL" in output
    assert "no permission to submit" in output


def test_owner_not_listed(devpi: Client, account: Account, name: str) -> None:
    """Nor can the owner without being listed."""
    devpi("index", "acl_upload=somebody")
    output = devpi.fails("upload", *write_files([wheel(name, "1.0")], devpi.home))
    assert "403 FAIL" in output


def test_without_login(devpi: Client, name: str) -> None:
    """Nobody in particular may upload where everybody may, and gets 401 elsewhere."""
    path = write_files([wheel(name, "1.0")], devpi.home)
    devpi("logoff")
    assert "401 FAIL" in devpi.fails("upload", *path)


def test_anonymous(devpi: Client, server: Server, dev: str, name: str) -> None:
    """:ANONYMOUS: in acl_upload opens an index for all."""
    devpi("index", "acl_upload=:ANONYMOUS:")
    devpi("logoff")
    devpi("upload", *write_files([wheel(name, "1.0")], devpi.home))
    (entry,) = server.links(dev, name)[wheel(name, "1.0").filename]["log"]
    assert entry["who"] in (None, "")


def test_to_a_mirror(devpi: Client, server: Server, account: Account, name: str) -> None:
    """A mirror takes no uploads: the client knows it, and the server says it."""
    up = new_index(server, account, "up", type="mirror", mirror_url="http://up.example/")
    path = write_files([wheel(name, "1.0")], devpi.home)
    output = devpi.fails("upload", "--index", up, *path)
    assert "404 FAIL" in output
    assert "cannot submit to mirror index" in output


@pytest.mark.parametrize("publish", [twine_upload, uv_publish])
@pytest.mark.parametrize("slash", ["", "/"])
def test_publish(
    server: Server,
    account: Account,
    dev: str,
    name: str,
    tmp_path: Path,
    publish: Callable[..., None],
    slash: str,
) -> None:
    """twine and uv publish with the password, to the index with and without a final slash."""
    built = [wheel(name, "1.0"), sdist(name, "1.0")]
    publish(
        f"{server.url}/{dev}{slash}", *built, folder=tmp_path / "files", user=account.name,
        password=account.password,
    )  # fmt: skip
    assert set(server.links(dev, name)) == {one.filename for one in built}
    assert _bytes(server, dev, built[1]) == built[1].data


@pytest.mark.parametrize("publish", [twine_upload, uv_publish])
def test_publish_with_a_login(
    server: Server,
    account: Account,
    dev: str,
    name: str,
    tmp_path: Path,
    publish: Callable[..., None],
) -> None:
    """A login token stands for the password, for other programs too."""
    login = {"user": account.name, "password": account.password}
    token = server.made("POST", "/+login", login)["password"]
    built = wheel(name, "1.0")
    publish(
        f"{server.url}/{dev}/", built, folder=tmp_path / "files", user=account.name,
        password=token,
    )  # fmt: skip
    assert set(server.links(dev, name)) == {built.filename}


@pytest.mark.parametrize("publish", [twine_upload, uv_publish])
def test_publish_refused(
    server: Server,
    account: Account,
    dev: str,
    name: str,
    tmp_path: Path,
    publish: Callable[..., None],
) -> None:
    """A wrong password ends in an error that says which."""
    with pytest.raises(AssertionError, match=r"40[13]"):
        publish(
            f"{server.url}/{dev}/", wheel(name, "1.0"), folder=tmp_path / "files",
            user=account.name, password="wrong",
        )  # fmt: skip
    assert server.call("GET", f"/{dev}/{name}").status == 404
