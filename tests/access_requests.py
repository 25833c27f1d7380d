"""A request for each row of the table in docs/access.md, prepared so that rights alone decide."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4
from xmlrpc import client as xmlrpc_client

from cluster.log.merkle import Frontier
from tests.access_site import DEMO, AccessSite, Request
from tests.builders import legacy_form, wheel
from tests.processes import basic

Recipe = Callable[[AccessSite, str], Request]
"""Makes the request for an index; whatever it removes or changes is made first."""

LINK: Final = f"+f/{DEMO.sha256[:3]}/{DEMO.sha256[3:16]}/{DEMO.filename}"


def get(path: str, **headers: str) -> Recipe:
    """GET of a path below an index, or of any other that begins with a slash."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def made(site: AccessSite, index: str) -> Request:
        target = path.replace("INDEX", index)
        return Request("GET", target, headers=named)

    return made


def send(method: str, path: str, **body: object) -> Recipe:
    """A request with a JSON body."""

    def made(site: AccessSite, index: str) -> Request:
        return with_json(method, path.replace("INDEX", index), **body)

    return made


def with_json(method: str, path: str, **body: object) -> Request:
    data = json.dumps(body).encode()
    return Request(method, path, data, {"Content-Type": "application/json"})


def link(built: object) -> str:
    """Where a file is below its index."""
    sha256, name = built.sha256, built.filename  # type: ignore[attr-defined]
    return f"+f/{sha256[:3]}/{sha256[3:16]}/{name}"


def create_user(site: AccessSite, index: str) -> Request:
    return with_json("PUT", f"/{site.name('user')}", password="x")


def change_user(site: AccessSite, index: str) -> Request:
    return with_json("PATCH", "/team", title=site.name("title"))


def delete_user(site: AccessSite, index: str) -> Request:
    user = site.user()
    return Request("DELETE", f"/{user}", key=basic(user, user))


def create_index(site: AccessSite, index: str) -> Request:
    return with_json("PUT", f"/team/{site.name('index')}", type="stage")


def change_index(site: AccessSite, index: str) -> Request:
    return with_json("PATCH", f"/{index}", title=site.name("title"))


def delete_index(site: AccessSite, index: str) -> Request:
    return Request("DELETE", f"/{site.index(index)}")


def upload(site: AccessSite, index: str) -> Request:
    content_type, body = legacy_form(wheel(site.name("project"), "1.0"))
    return Request("POST", f"/{index}/", body, {"Content-Type": content_type})


def search(site: AccessSite, index: str) -> Request:
    return xmlrpc(index, "search", {"name": ["demo"]}, "and")


def xmlrpc(index: str, method: str, *arguments: Any) -> Request:
    """A call at an index's URL."""
    body = xmlrpc_client.dumps(arguments, method).encode()
    return Request("POST", f"/{index}/", body, {"Content-Type": "text/xml"})


def push(site: AccessSite, index: str) -> Request:
    return with_json("PUSH", f"/{index}", name="demo", version="1.0", targetindex="team/target")


def delete_project(site: AccessSite, index: str) -> Request:
    return Request("DELETE", f"/{index}/{site.uploaded(index).name}")


def delete_version(site: AccessSite, index: str) -> Request:
    return Request("DELETE", f"/{index}/{site.uploaded(index).name}/1.0")


def delete_file(site: AccessSite, index: str) -> Request:
    return Request("DELETE", f"/{index}/{link(site.uploaded(index))}")


def publish_stage(site: AccessSite, index: str) -> Request:
    site.uploaded(index, stage := site.name("stage"))
    return Request("POST", f"/{index}/+stages/{stage}/publish")


def drop_stage(site: AccessSite, index: str) -> Request:
    site.uploaded(index, stage := site.name("stage"))
    return Request("DELETE", f"/{index}/+stages/{stage}")


def revoke_token(site: AccessSite, index: str) -> Request:
    return Request("DELETE", f"/+tokens/{site.token('read')[4:20]}")


def secret_blob(site: AccessSite, index: str) -> Request:
    folder = site.primary.state_dir / "secrets"
    name = min(path.name for path in folder.rglob("*") if len(path.name) == 64)
    return Request("GET", f"/+node/secret/{name}")


def tail(site: AccessSite, index: str) -> Request:
    log = site.primary.status()["log_identity"]["log"]
    root = base64.urlsafe_b64encode(Frontier().root).decode()
    return Request("GET", f"/+log/tail?log={log}&from=0&root={root}&wait=0")


def note(site: AccessSite, index: str) -> Request:
    return Request("GET", f"/+log/note/{site.primary.status()['serial']}")


def node_file(site: AccessSite, index: str) -> Request:
    fetched = site.replica.request("GET", f"/{index}/{LINK}", headers=site.keys["root"])
    assert fetched.status == 200, fetched
    return Request("GET", f"/+node/file/{DEMO.sha256}")


def node_pull(site: AccessSite, index: str) -> Request:
    fetched = site.replica.request("GET", f"/{index}/{LINK}", headers=site.keys["root"])
    assert fetched.status == 200, fetched
    return Request("GET", f"/+node/pull/{DEMO.sha256}")


def cosign(site: AccessSite, index: str) -> Request:
    root = base64.b64encode(Frontier().root).decode()
    return with_json("POST", "/+log/cosign", position=0, root=root, files_position=0)


def revoke_node(site: AccessSite, index: str) -> Request:
    return Request("DELETE", f"/+nodes/keys/{uuid4()}")


_VERSION, _FILE = "/INDEX/demo/1.0", f"/INDEX/{LINK}"

REQUESTS: dict[str, Recipe] = {
    "GET /": get("/"),
    "GET /+api": get("/+api"),
    "GET /<user>/+api": get("/team/+api"),
    "GET /<index>/+api": get("/INDEX/+api"),
    "POST /+login": send("POST", "/+login", user="olga", password="olga"),
    "GET /+authcheck": get("/+authcheck", X_Original_URI="/team/closed/+simple/"),
    "GET /+status": get("/+status"),
    "GET /+ready": get("/+ready"),
    "GET /+search": get("/+search?query=demo"),
    "GET /+search of an index": get("/+search?query=demo&index=INDEX"),
    "GET /<user>": get("/team"),
    "PUT /<user>": create_user,
    "PATCH /<user>": change_user,
    "DELETE /<user>": delete_user,
    "GET /+tokens": get("/+tokens"),
    "POST /+tokens": send("POST", "/+tokens", actions=["read"]),
    "DELETE /+tokens/<token>": revoke_token,
    "GET /_/oidc/audience": get("/_/oidc/audience"),
    "POST /_/oidc/mint-token": send("POST", "/_/oidc/mint-token", token="x"),
    "GET /.well-known/pytp": get("/.well-known/pytp?discover=/team/open/"),
    "GET /<index>": get("/INDEX"),
    "PUT /<index>": create_index,
    "PATCH /<index>": change_index,
    "DELETE /<index>": delete_index,
    "GET /<index>/+simple": get("/INDEX/+simple/"),
    "GET /<index>/+simple/<project>": get("/INDEX/+simple/demo/"),
    "POST /<index>/+simple/<project>/refresh": send("POST", "/INDEX/+simple/demo/refresh"),
    "POST /<index>/<project>/refresh": send("POST", "/INDEX/demo/refresh"),
    "GET /<index>/pypi/<project>/json": get("/INDEX/pypi/demo/json"),
    "GET /<index>/pypi/<project>/<version>/json": get("/INDEX/pypi/demo/1.0/json"),
    "POST /<index> search by XML-RPC": search,
    "GET /<index>/<project>": get("/INDEX/demo"),
    "GET /<index>/<project>/<version>": get(_VERSION),
    "GET /<index>/<project>/+status": get("/INDEX/demo/+status"),
    "GET /<index>/+f/<file>": get(_FILE),
    "GET /<index>/+integrity/<project>/<version>/<file>/provenance": get(
        f"/INDEX/+integrity/demo/1.0/{DEMO.filename}/provenance"
    ),
    "GET /<index>/<project>/<version>/+doc": get(f"{_VERSION}/+doc/"),
    "GET /<index>/<project>/<version>/+doc/<page>": get(f"{_VERSION}/+doc/index.html"),
    "GET /<index>/<project>/<version>/+d": get(f"{_VERSION}/+d/"),
    "GET /<index>/<project>/<version>/+d/<page>": get(f"{_VERSION}/+d/index.html"),
    "POST /<index> an upload": upload,
    "GET /<index>/+stages": get("/INDEX/+stages"),
    "POST /<index>/+stages/<stage>/publish": publish_stage,
    "DELETE /<index>/+stages/<stage>": drop_stage,
    "PUSH /<index>": push,
    "POST /<index>/+f/<file>": send("POST", _FILE, testenvs={}),
    "DELETE /<index>/<project>": delete_project,
    "DELETE /<index>/<project>/<version>": delete_version,
    "DELETE /<index>/+f/<file>": delete_file,
    "POST /<index>/<project>/<version>/+yank": send("POST", f"{_VERSION}/+yank", reason="r"),
    "DELETE /<index>/<project>/<version>/+yank": send("DELETE", f"{_VERSION}/+yank"),
    "POST /<index>/+f/<file>/+yank": send("POST", f"{_FILE}/+yank", reason="r"),
    "DELETE /<index>/+f/<file>/+yank": send("DELETE", f"{_FILE}/+yank"),
    "PUT /<index>/<project>/+status": send("PUT", "/INDEX/demo/+status", status="active"),
    "PUT /+import/<what>": send("PUT", "/+import/things", things=[]),
    "GET /+log/checkpoint": get("/+log/checkpoint"),
    "GET /+log/tile/<level>/<number>": get("/+log/tile/0/0.p/1"),
    "GET /+log/identity": get("/+log/identity?nonce=0123456789abcdef"),
    "GET /+log/tail": tail,
    "GET /+log/epochs": get("/+log/epochs"),
    "GET /+log/note/<size>": note,
    "POST /+log/cosign": cosign,
    "POST /+log/reports": send("POST", "/+log/reports", reports=[], lost=[]),
    "POST /+log/evidence": send("POST", "/+log/evidence"),
    "GET /+log/snapshots": get("/+log/snapshots"),
    "POST /+log/snapshots": send("POST", "/+log/snapshots"),
    "GET /+log/snapshot/<serial>/manifest": get("/+log/snapshot/1/manifest"),
    "GET /+log/snapshot/<serial>/<number>": get("/+log/snapshot/1/0"),
    "GET /+metrics": get("/+metrics"),
    "GET /+nearest": get("/+nearest"),
    "GET /+nodes": get("/+nodes"),
    "POST /+nodes/invite": send("POST", "/+nodes/invite"),
    "POST /+nodes/join": send("POST", "/+nodes/join"),
    "GET /+nodes/keys": get("/+nodes/keys"),
    "DELETE /+nodes/keys/<node>": revoke_node,
    "GET /+node/file/<sha256>": node_file,
    "GET /+node/pull/<sha256>": node_pull,
    "GET /+node/projects": get("/+node/projects?index=INDEX"),
    "GET /+node/state": get("/+node/state"),
    "GET /+node/state/<bucket>": get("/+node/state/00"),
    "POST /+node/fence": send("POST", "/+node/fence", epoch=0),
    "GET /+node/admit/<index>": get("/+node/admit/INDEX"),
    "GET /+node/secret/<name>": secret_blob,
    "POST /+node/refresh": send("POST", "/+node/refresh", index="team/mirror", project="demo"),
}
"""By the first column of the table."""
