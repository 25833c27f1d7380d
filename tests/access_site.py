"""The nodes, indexes and roles that the table of docs/access.md is about."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from attrs import define, field, frozen

from cluster.auth.nodes import NodeSecret
from cluster.protocol import NODE_HEADER
from tests.builders import Built, legacy_form, multipart, wheel
from tests.functional.helpers import ROOT_PASSWORD
from tests.functional.test_docs_hosting import docs_zip
from tests.functional.test_tokens import record_expired
from tests.functional.test_upload import ATTESTATION
from tests.processes import Answer, Cluster, Node, basic

CLOSED, OPEN = "team/closed", "team/open"
USERS = {"other": "olga", "reader": "rita", "uploader": "uma", "admin": "adam", "owner": "team"}
ACLS = {"acl_upload": ["uma", "team"], "acl_admin": ["adam"]}
READERS = ["rita", "uma"]
DEMO = wheel("demo", "1.0")
PUBLISHERS = """
[[publisher]]
name = "ci"
issuer = "http://127.0.0.1:9"
user = "team"
indexes = ["team/open"]
claims = { repository = "team/demo" }
"""
JSON = {"Accept": "application/json"}


@frozen
class Request:
    """What a role is to send; `key` replaces the owner's credentials."""

    method: str
    path: str
    body: bytes | None = None
    headers: dict[str, str] = field(factory=dict)
    key: dict[str, str] | None = None


@define
class AccessSite:
    """A primary and a replica with team/closed, for those in its ACLs, and team/open, the same
    for everybody to read; `keys` are the headers by which each role is known.
    """

    primary: Node
    replica: Node
    keys: dict[str, dict[str, str]] = field(factory=dict)
    numbers: Iterator[int] = field(factory=lambda: count(1))

    def send(self, node: Node, role: str, request: Request) -> Answer:
        """Send a request as somebody."""
        key = request.key if role == "owner" and request.key else self.keys[role]
        headers = {**JSON, **request.headers, **key}
        return node.request(request.method, request.path, body=request.body, headers=headers)

    def by_root(self, method: str, path: str, **body: object) -> Answer:
        """A preparation."""
        headers = {**self.keys["root"], **JSON, "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body else None
        answer = self.primary.request(method, path, body=data, headers=headers)
        assert answer.status in (200, 201), answer
        return answer

    def name(self, prefix: str) -> str:
        """A name that nothing has yet."""
        return f"{prefix}{next(self.numbers)}"

    def user(self) -> str:
        """A new user, whose password is its name."""
        name = self.name("user")
        self.by_root("PUT", f"/{name}", password=name)
        return name

    def index(self, like: str, *bases: str) -> str:
        """A new index with the rights of another one."""
        name = f"team/{self.name('index')}"
        readers = READERS if like == CLOSED else [":ANONYMOUS:"]
        self.by_root(
            "PUT", f"/{name}", type="stage", acl_pkg_read=readers, bases=bases, **ACLS
        )  # fmt: skip
        return name

    def uploaded(self, index: str, stage: str = "") -> Built:
        """A new project with a file."""
        built = wheel(self.name("project"), "1.0")
        self.upload(index, built, f"?stage={stage}" if stage else "")
        return built

    def upload(self, index: str, built: Built, query: str = "") -> None:
        """A file."""
        self._form(f"/{index}/{query}", legacy_form(built))

    def document(self, index: str, built: Built) -> None:
        """Documentation of a release."""
        fields = {":action": "doc_upload", "name": built.name, "version": built.version}
        self._form(f"/{index}/", multipart(fields, "docs.zip", docs_zip(index_dot_html=b"docs")))

    def token(self, *actions: str) -> str:
        """A token of the owner."""
        body = json.dumps({"actions": actions}).encode()
        headers = {**self.keys["owner"], **JSON}
        answer = self.primary.request("POST", "/+tokens", body=body, headers=headers)
        assert answer.status == 201, answer
        text: str = answer.json()["result"]["token"]
        return text

    def prepare(self) -> None:
        """Users, tokens, indexes and what is on them; the primary knows root alone so far."""
        self.keys |= {"nobody": {}, "root": basic("root", ROOT_PASSWORD)}
        for role, user in USERS.items():
            self.by_root("PUT", f"/{user}", password=user)
            self.keys[role] = basic(user, user)
        for action in ("read", "upload"):
            self.keys[f"{action} token"] = basic("__token__", self.token(action))
        for index, readers in ((CLOSED, READERS), (OPEN, [":ANONYMOUS:"])):
            self.by_root("PUT", f"/{index}", type="stage", acl_pkg_read=readers, **ACLS)
            self._form(f"/{index}/", legacy_form(DEMO, attestations=json.dumps([ATTESTATION])))
            self.document(index, DEMO)
        self.by_root("PUT", "/team/target", type="stage", acl_upload=[":AUTHENTICATED:"])
        self.by_root("PUT", "/team/mirror", type="mirror", mirror_url="http://127.0.0.1:9/")

    def _form(self, path: str, form: tuple[str, bytes]) -> None:
        headers = {**self.keys["owner"], "Content-Type": form[0]}
        answer = self.primary.request("POST", path, body=form[1], headers=headers)
        assert answer.status == 200, answer


@contextmanager
def access_site(folder: Path) -> Iterator[AccessSite]:
    """The site, running."""
    with Cluster(folder) as cluster:
        publishers = folder / "publishers.toml"
        publishers.write_text(PUBLISHERS)
        primary = cluster.primary(
            None, "--trusted-publishers", str(publishers), root_password=ROOT_PASSWORD
        )
        site = AccessSite(primary, primary)
        site.prepare()
        primary.terminate()
        expired = record_expired(primary.state_dir, "team")
        primary.start()
        site.keys["expired token"] = basic("__token__", expired)
        node = NodeSecret(cluster.secret_file.read_bytes(), time.time).token("a-node")
        site.keys["node"] = {NODE_HEADER: node}
        site.replica = cluster.replica(primary)
        site.replica.wait_serial(primary.status()["serial"])
        yield site
