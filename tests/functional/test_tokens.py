"""API tokens and trusted publishing with real clients, against a primary and through a replica."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cluster.auth.tokens import TokenLimits, mint
from cluster.log import changelog
from cluster.log.changes import Change, Kind
from cluster.state import queries
from cluster.state.database import Database, open_engine
from cluster.state.position import Head, Position
from cluster.threads import Inline
from primary.writer import Writer
from tests.builders import wheel
from tests.fakes import as_clock
from tests.functional.helpers import ROOT_PASSWORD, upload, wait_visible
from tests.installers import pip_install, twine_upload, write_files
from tests.oidc_issuer import REQUEST_TOKEN, Issuer, serving
from tests.processes import CHECKOUT, Answer, Cluster, Node, basic, eventually, free_port

pytestmark = pytest.mark.functional

KEY = basic("root", ROOT_PASSWORD)
JOB = {"repository": "acme/demo", "ref": "refs/tags/v1"}
PUBLISHERS = """
[[publisher]]
name = "demo"
issuer = "{issuer}"
user = "root"
indexes = ["root/dev"]
projects = ["trusted-primary", "trusted-replica", "trusted-uv"]
claims = {{ repository = "acme/demo", ref = "refs/tags/*" }}
"""
SECRET_PROJECT = wheel("secret-thing", "1.0")


@frozen
class Site:
    """A primary and a replica with an open and a restricted index, and an issuer."""

    primary: Node
    replica: Node
    issuer: Issuer
    tls_url: str
    expired: str

    def node(self, name: str) -> Node:
        return self.replica if name == "replica" else self.primary

    def revoke(self, token: str) -> Answer:
        answer = self.primary.request("DELETE", f"/+tokens/{token[4:20]}", headers=KEY)
        assert answer.status == 200, answer
        self.replica.wait_serial(int(answer.headers["x-pymirror-serial"]))
        return answer


def create(node: Node, key: dict[str, str] = KEY, **body: object) -> Answer:
    headers = {**key, "Content-Type": "application/json", "Accept": "application/json"}
    return node.request("POST", "/+tokens", body=json.dumps(body).encode(), headers=headers)


def token(node: Node, *actions: str, **body: object) -> str:
    """The text of a new token."""
    answer = create(node, KEY, actions=actions, **body)
    assert answer.status == 201, answer
    text: str = answer.json()["result"]["token"]
    return text


def certificate(folder: Path) -> str:
    """Twisted's words for a certificate of 127.0.0.1 that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return f"privateKey={folder / 'key.pem'}:certKey={folder / 'cert.pem'}"


def record_expired(state_dir: Path, user: str = "root") -> str:
    """Record a token whose time is over, on a primary that is stopped; its text."""
    limits = TokenLimits(frozenset({"read", "upload"}))
    text, made = mint(user, limits, "over", 60, time.time() - 3600)
    engine = open_engine(state_dir / "log.sqlite", changelog.metadata)
    try:
        with engine.begin() as connection:
            frontier, epoch = changelog.frontier(connection), queries.epoch(connection)
        assert epoch is not None
        position = Position(as_clock(Clock()), Head(frontier.size, 1, frontier.root, None))
        writer = Writer(Database(engine, Inline(), Inline()), position, epoch.epoch, frontier)
        change = Change(Kind.TOKEN_ADDED, made.to_payload())
        done = Deferred.fromCoroutine(writer.write("root", lambda c: [change]))
        assert done.called
    finally:
        engine.dispose()
    return text


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The nodes; the primary also listens with TLS, which uv takes for granted."""
    folder = tmp_path_factory.mktemp("tokens")
    tls = free_port()
    with serving(JOB, time.time) as issuer, Cluster(folder) as cluster:
        listed = folder / "publishers.toml"
        listed.write_text(PUBLISHERS.format(issuer=issuer.url))
        primary = cluster.primary(
            None, "--trusted-publishers", str(listed),
            "--listen", f"ssl:{tls}:interface=127.0.0.1:{certificate(folder)}",
            root_password=ROOT_PASSWORD,
        )  # fmt: skip
        primary.put_index("root/dev", ROOT_PASSWORD, type="stage")
        primary.put_index("root/other", ROOT_PASSWORD, type="stage")
        primary.put_index(
            "root/private", ROOT_PASSWORD, type="stage", acl_pkg_read=["root"]
        )  # fmt: skip
        assert upload(primary, "root/private", SECRET_PROJECT).status == 200
        primary.terminate()
        expired = record_expired(primary.state_dir)
        primary.start()
        replica = cluster.replica(primary)
        replica.wait_serial(primary.status()["serial"])
        yield Site(primary, replica, issuer, f"https://127.0.0.1:{tls}", expired)


NODES = pytest.mark.parametrize("through", ["primary", "replica"])


@NODES
def test_upload_with_a_token(site: Site, tmp_path: Path, through: str) -> None:
    """twine uploads with a token of the right scope, as __token__, until it is revoked."""
    node = site.node(through)
    name = f"scoped-{through}"
    text = token(node, "upload", indexes=["root/dev"], projects=[name])
    url = f"{node.url}/root/dev/"
    built = wheel(name, "1.0")
    twine_upload(url, built, folder=tmp_path / "a", user="__token__", password=text)
    wait_visible(site.primary, "root/dev", built, 2)
    [listed] = [one for one in tokens(site.primary) if one["id"] == text[4:20]]
    assert listed["last_used"] is not None
    site.revoke(text)
    with pytest.raises(AssertionError, match="401"):
        twine_upload(
            url, wheel(name, "1.1"), folder=tmp_path / "b", user="__token__", password=text
        )  # fmt: skip
    assert built.filename in site.primary.file_urls("root/dev", name)
    assert len(site.primary.file_urls("root/dev", name)) == 1


def tokens(node: Node) -> list[dict[str, Any]]:
    answer = node.request("GET", "/+tokens", headers=KEY)
    assert answer.status == 200, answer
    found: list[dict[str, Any]] = answer.json()["result"]
    return found


@NODES
@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ({"actions": ["read"]}, "403"),
        ({"actions": ["upload"], "indexes": ["root/other"]}, "403"),
        ({"actions": ["upload"], "projects": ["another"]}, "403"),
        (None, "401"),
    ],
    ids=["read only", "other index", "other project", "expired"],
)
def test_upload_beyond_the_scope(
    site: Site, tmp_path: Path, through: str, scope: dict[str, Any] | None, status: str
) -> None:
    """A token for reading, elsewhere, another project, or over: twine says so, nothing is kept."""
    node = site.node(through)
    text = site.expired if scope is None else create(node, **scope).json()["result"]["token"]
    serial = site.primary.status()["serial"]
    with pytest.raises(AssertionError, match=status):
        twine_upload(
            f"{node.url}/root/dev/", wheel("beyond", "1.0"), folder=tmp_path / "files",
            user="__token__", password=text,
        )  # fmt: skip
    assert site.primary.status()["serial"] == serial


@NODES
def test_install_with_a_token(site: Site, tmp_path: Path, through: str) -> None:
    """pip installs from a restricted index with a reading token; wrong, revoked and expired
    ones, and none, get nothing: not even whether the project exists.
    """
    node = site.node(through)
    good = token(node, "read", indexes=["root/private"])
    site.replica.wait_serial(site.primary.status()["serial"])

    def install(credentials: str, target: str) -> None:
        index = f"http://{credentials}127.0.0.1:{node.port}/root/private/+simple/"
        pip_install(index, "secret-thing", target=tmp_path / target)

    install(f"__token__:{good}@", "good")
    assert (tmp_path / "good" / "secret_thing.py").exists()
    install(f"root:{good}@", "by-name")
    for text in (
        token(node, "upload", indexes=["root/private"]),
        token(node, "read", indexes=["root/dev"]),
        token(node, "read", projects=["another"]),
        site.expired,
        f"{good[:-1]}{'A' if good[-1] != 'A' else 'B'}",
    ):
        with pytest.raises(AssertionError):
            install(f"__token__:{text}@", "bad")
        answer = node.page("root/private", "secret-thing")
        assert answer.status == 401
    site.revoke(good)
    with pytest.raises(AssertionError):
        install(f"__token__:{good}@", "revoked")


@NODES
def test_bearer(site: Site, through: str) -> None:
    """A token also goes as Bearer, to pages and files alike."""
    node = site.node(through)
    key = {"Authorization": f"Bearer {token(node, 'read')}"}
    page = node.request(
        "GET", "/root/private/+simple/secret-thing/",
        headers={**key, "Accept": "application/vnd.pypi.simple.v1+json"},
    )  # fmt: skip
    assert page.status == 200, page
    path = page.json()["files"][0]["url"].partition("#")[0].replace("../../", "/root/private/")
    assert node.request("GET", path, headers=key).body == SECRET_PROJECT.data
    assert node.request("GET", path).status in (401, 404)


@NODES
def test_tokens_make_no_tokens(site: Site, through: str) -> None:
    """A token with every action makes, lists and revokes no token, and changes nothing else."""
    node = site.node(through)
    text = token(node, "read", "upload", "replicate")
    key = basic("__token__", text)
    assert create(node, key, actions=["read"]).status == 403
    assert node.request("GET", "/+tokens", headers=key).status == 403
    assert node.request("DELETE", f"/+tokens/{text[4:20]}", headers=key).status == 403
    config = json.dumps({"type": "stage"}).encode()
    headers = {**key, "Content-Type": "application/json"}
    assert node.request("PUT", "/root/fresh", body=config, headers=headers).status == 403
    assert create(node, {}, actions=["read"]).status == 401


@NODES
def test_command(site: Site, through: str) -> None:
    """`pymirror token` makes a token that works, lists it without its secret, revokes it."""
    node = site.node(through)
    common = ["--url", node.url, "--user", "root"]
    text = command("create", "--action", "read", "--description", "by hand", *common).strip()
    assert text.startswith("pym_")
    shown = command("list", *common)
    assert text[4:20] in shown
    assert "by hand" in shown
    assert text[21:] not in shown
    assert "revoked" in command("revoke", text[4:20], *common)
    assert text[4:20] not in [one["id"] for one in tokens(site.primary)]
    with pytest.raises(subprocess.CalledProcessError):
        command("revoke", text[4:20], *common)


def command(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from cluster.cli.main import main; main()", "token", *arguments],
        cwd=CHECKOUT, env={**os.environ, "PYMIRROR_PASSWORD": ROOT_PASSWORD, "COLUMNS": "200"},
        capture_output=True, timeout=60, check=True, text=True,
    )  # fmt: skip
    return done.stdout


def test_nothing_secret_is_kept(site: Site) -> None:
    """No secret of a token is in the nodes' logs, databases or status."""
    text = token(site.primary, "read", description="watched")
    site.replica.wait_serial(site.primary.status()["serial"])
    key = basic("__token__", text)
    for node in (site.primary, site.replica):
        assert node.page("root/private", "secret-thing").status == 401
        assert node.request("GET", "/root/private/+simple/", headers=key).status == 200
        for path in [node.log, *node.state_dir.rglob("*")]:
            assert path.is_dir() or text[21:].encode() not in path.read_bytes(), path
        assert text[21:] not in json.dumps(node.status())


@NODES
def test_exchange_and_upload(site: Site, tmp_path: Path, through: str) -> None:
    """A job's identity token is exchanged for an upload token, and twine uploads with it."""
    node = site.node(through)
    found = node.get("/.well-known/pytp?discover=%2Froot%2Fdev%2F")
    assert found.status == 200, found
    endpoints = found.json()
    audience = node.get(endpoints["audience-endpoint"].removeprefix(node.url)).json()["audience"]
    identity = site.issuer.sign(site.issuer.job(time.time(), aud=audience), "ec-1")
    mint_path = endpoints["token-mint-endpoint"].removeprefix(node.url)
    answer = exchange(node, mint_path, identity)
    assert answer.status == 200, answer
    assert abs(answer.json()["expires"] - time.time() - 900) < 60
    text, name = answer.json()["token"], f"trusted-{through}"
    twine_upload(
        f"{node.url}/root/dev/", wheel(name, "1.0"), folder=tmp_path / "a", user="__token__",
        password=text,
    )  # fmt: skip
    with pytest.raises(AssertionError, match="403"):
        twine_upload(
            f"{node.url}/root/dev/", wheel("untrusted", "1.0"), folder=tmp_path / "b",
            user="__token__", password=text,
        )  # fmt: skip
    assert exchange(node, mint_path, identity).status == 422


def exchange(node: Node, path: str, identity: str) -> Answer:
    headers = {"Content-Type": "application/json"}
    return node.request(
        "POST", path, body=json.dumps({"token": identity}).encode(), headers=headers
    )


@NODES
def test_refused_exchange(site: Site, through: str) -> None:
    """Identity tokens of other jobs, other audiences and forgers mint nothing."""
    node, issuer, now = site.node(through), site.issuer, time.time()
    serial = site.primary.status()["serial"]
    for identity, code in (
        (issuer.sign(issuer.job(now, repository="acme/other")), "invalid-publisher"),
        (issuer.sign(issuer.job(now, aud="elsewhere")), "invalid-token"),
        (issuer.sign(issuer.job(now - 3600)), "expired-token"),
        (issuer.unsigned(issuer.job(now)), "invalid-token"),
        (issuer.confused(issuer.job(now)), "invalid-token"),
        (Issuer(issuer.url, JOB).sign(issuer.job(now)), "invalid-token"),
    ):
        answer = exchange(node, "/_/oidc/mint-token", identity)
        assert answer.status == 422, answer
        assert [error["code"] for error in answer.json()["errors"]] == [code]
    assert site.primary.status()["serial"] == serial


def test_uv_trusted_publishing(site: Site, tmp_path: Path) -> None:
    """The real `uv publish --trusted-publishing always`, as a CI's job runs it."""
    built = wheel("trusted-uv", "1.0")
    env = {k: v for k, v in os.environ.items() if not k.startswith("UV_")}
    env |= {
        "GITHUB_ACTIONS": "true",
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{site.issuer.url}/job?api=1",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN,
    }
    done = subprocess.run(
        [str(Path(sys.executable).with_name("uv")), "publish", "--no-config", "--no-cache",
         "--trusted-publishing", "always", "--allow-insecure-host", "127.0.0.1",
         "--publish-url", f"{site.tls_url}/root/dev/", *write_files([built], tmp_path)],
        env=env, capture_output=True, timeout=60, check=False, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    eventually(
        lambda: built.filename in site.primary.file_urls("root/dev", "trusted-uv"), 2, "the file"
    )


def test_last_use_on_a_replica(tmp_path: Path) -> None:
    """A token that is used at a replica alone is listed with that use by the primary."""
    with Cluster(tmp_path) as cluster:
        primary = cluster.primary(None, root_password=ROOT_PASSWORD)
        primary.put_index("root/dev", ROOT_PASSWORD, type="stage", acl_pkg_read=["root"])
        replica = cluster.replica(primary)
        body = json.dumps({"actions": ["read"]}).encode()
        key = basic("root", ROOT_PASSWORD)
        made = primary.request("POST", "/+tokens", body=body, headers=key).json()["result"]
        replica.wait_serial(primary.status()["serial"])
        token = basic("__token__", made["token"])
        assert replica.request("GET", "/root/dev/+simple/", headers=token).status == 200
        # The next poll says so; a change brings it about at once.
        primary.put_index("root/other", ROOT_PASSWORD, type="stage")

        def last_used() -> object:
            (listed,) = primary.request("GET", "/+tokens", headers=key).json()["result"]
            return listed["last_used"]

        eventually(last_used, 10, "the use is known at the primary")


def test_replicate(tmp_path: Path) -> None:
    """Root's token to replicate copies the log, for an audit say; one that may read does not, and
    neither does one of somebody else, or one that is for an index."""
    with Cluster(tmp_path) as cluster:
        primary = cluster.primary(None, root_password=ROOT_PASSWORD)
        body = json.dumps({"password": "a long one"}).encode()
        assert primary.request("PUT", "/eve", body=body).status == 201
        log = primary.status()["log_identity"]["log"]
        root = base64.urlsafe_b64encode(hashlib.sha256(b"").digest()).decode()
        path = f"/+log/tail?log={log}&from=0&root={root}&wait=25"

        def asked(user: str, password: str, **limits: object) -> Answer:
            made = primary.request(
                "POST", "/+tokens", body=json.dumps(limits).encode(), headers=basic(user, password)
            )
            token = made.json()["result"]["token"]
            return primary.get(path, Authorization=f"Bearer {token}")

        copied = asked("root", ROOT_PASSWORD, actions=["replicate"])
        assert (copied.status, b'"serial":1' in copied.body) == (200, True)
        assert asked("root", ROOT_PASSWORD, actions=["read", "upload"]).status == 401
        limited = {"actions": ["replicate"], "indexes": ["root/dev"]}
        assert asked("root", ROOT_PASSWORD, **limited).status == 401
        assert asked("eve", "a long one", actions=["replicate"]).status == 401
        assert primary.get(path).status == 401
        assert not primary.status()["replicas"]
