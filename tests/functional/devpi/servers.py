"""The servers under test as their clients see them: raw requests, accounts, indexes."""

from __future__ import annotations

import itertools
import json
import urllib.parse
from typing import Any

from attrs import frozen

from tests.builders import Built, legacy_form, multipart
from tests.processes import Answer, Upstream, basic, http

JSON = "application/json"
ANONYMOUS: dict[str, str] = {}
ROOT = basic("root", "")

_numbers = itertools.count(1)


@frozen
class Server:
    """One node: `url` without a final slash."""

    name: str
    url: str

    def call(
        self,
        method: str,
        path: str,
        data: object = None,
        auth: dict[str, str] = ANONYMOUS,
        **headers: str,
    ) -> Answer:
        """A request as devpi-client makes it: JSON is accepted and, but for bytes, sent.

        Names of `headers` are given with underscores.
        """
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        given = {"Accept": JSON, "Content-Type": JSON, **auth, **given}
        body = data if isinstance(data, bytes) else None if data is None else _json(data)
        return http(method, self.url + path, body=body, headers=given)

    def made(
        self, method: str, path: str, data: object = None, auth: dict[str, str] = ANONYMOUS
    ) -> Any:
        """As `call`, for what must succeed; the `result` of the answer, None without one."""
        answer = self.call(method, path, data, auth)
        assert answer.status in (200, 201), (method, path, answer)
        return answer.json().get("result")

    def result(self, path: str, auth: dict[str, str] = ANONYMOUS) -> Any:
        """The `result` of a GET."""
        return self.made("GET", path, None, auth)

    def upload(
        self, index: str, built: Built, auth: dict[str, str], **fields: str | list[str] | None
    ) -> Answer:
        """Upload a file by the legacy API; `fields` override those of `legacy_form`."""
        content_type, body = legacy_form(built, **fields)
        return self.call("POST", f"/{index}/", body, auth, Content_Type=content_type, Accept="*/*")

    def upload_docs(self, index: str, name: str, version: str, zipped: bytes, auth: Any) -> Answer:
        """Upload documentation as devpi-client does."""
        fields = {":action": "doc_upload", "name": name, "version": version}
        content_type, body = multipart(fields, f"{name}-{version}.doc.zip", zipped)
        return self.call("POST", f"/{index}/", body, auth, Content_Type=content_type)

    def links(self, index: str, project: str, rel: str = "releasefile") -> dict[str, Any]:
        """The links of all versions of a project, by file name."""
        versions = self.result(f"/{index}/{project}?ignore_bases").values()
        return {
            link["href"].rpartition("/")[2].partition("#")[0]: link
            for version in versions
            for link in version.get("+links", ())
            if link["rel"] == rel
        }

    def pip_url(self, index: str, user: str = "", secret: str = "") -> str:
        """The simple index, with credentials if any."""
        parts = urllib.parse.urlsplit(self.url)
        login = f"{user}:{urllib.parse.quote(secret)}@" if user else ""
        return f"{parts.scheme}://{login}{parts.netloc}/{index}/+simple/"


@frozen
class Account:
    """A user of the servers."""

    name: str
    password: str

    @property
    def auth(self) -> dict[str, str]:
        """The header with which the user's requests are made."""
        return basic(self.name, self.password)

    @property
    def dev(self) -> str:
        """The name of the index that most cases work on."""
        return f"{self.name}/dev"


@frozen
class Deployment:
    """What all cases share: two nodes, an upstream to mirror, and somebody else's index."""

    primary: Server
    replica: Server
    upstream: Upstream
    elsewhere: Server
    is_peer: bool


def unique(prefix: str) -> str:
    """A name that no other case uses."""
    return f"{prefix}{next(_numbers)}"


def new_account(server: Server) -> Account:
    """A user that was just created."""
    account = Account(unique("user"), "a password of eight")
    server.made("PUT", f"/{account.name}", {"password": account.password})
    return account


def new_index(server: Server, owner: Account, name: str = "dev", **options: object) -> str:
    """An index of `owner`; its full name."""
    full = f"{owner.name}/{name}"
    server.made("PUT", f"/{full}", options, owner.auth)
    return full


def _json(data: object) -> bytes:
    return json.dumps(data).encode()
