"""nginx as a subject: the bytes of another subject's pages and files, as static files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from bench.client import Address, free_port, get, is_answering
from bench.data import BIG_PROJECT, SIZED_PROJECT
from bench.processes import ProcessGroup
from bench.subjects import JSON, Target, file_path, page_path, sized_filenames

HINT = "nginx is not installed (Debian: apt-get install nginx-light): no ratios to it"
_HTML = {"Accept": "text/html"}
_GZIP = {"Accept-Encoding": "gzip"}
_CONFIG = """\
{user}
daemon off;
worker_processes 1;
pid {root}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000000;
  open_file_cache max=10000 inactive=1h;
  open_file_cache_valid 1h;
  gzip_static on;
  types {{ text/html html; application/vnd.pypi.simple.v1+json json; }}
  default_type application/octet-stream;
  client_body_temp_path {root}/tmp-body;
  proxy_temp_path {root}/tmp-proxy;
  fastcgi_temp_path {root}/tmp-fastcgi;
  uwsgi_temp_path {root}/tmp-uwsgi;
  scgi_temp_path {root}/tmp-scgi;
  map $http_accept $page {{
    default index.html;
    "~^application/vnd.pypi.simple.v1\\+json" index.json;
  }}
  server {{
    listen {address.host}:{address.port};
    root {root}/www;
    location / {{ }}
    location ~ /\\+simple/[^/]+/$ {{ try_files $uri$page =404; }}
  }}
}}
"""


def find() -> str | None:
    """The nginx program, which Debian keeps out of users' PATH."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def start(program: str, directory: Path, processes: ProcessGroup, model: Target) -> Target:
    """Start nginx with what `model` serves: pages (HTML, JSON, each also gzip) and files."""
    root = directory / "nginx"
    for project in (*model.projects, BIG_PROJECT, SIZED_PROJECT):
        _copy_page(model, project, root / "www")
    for large in (False, True):
        path = file_path(model.address, SIZED_PROJECT, sized_filenames(large))
        _write(root / "www" / path.lstrip("/"), get(model.address, path).body)
    address = Address(free_port())
    user = "user root;" if os.geteuid() == 0 else ""
    config = root / "nginx.conf"
    config.write_text(_CONFIG.format(user=user, root=root, address=address))
    process = processes.start("nginx", [program, "-p", str(root), "-c", str(config)], root)
    ready = page_path(model.projects[0])
    process.wait_until(lambda: is_answering(address, ready), 10.0)
    return Target("nginx", address, process, model.projects)


def _copy_page(model: Target, project: str, www: Path) -> None:
    path = page_path(project)
    folder = www / path.strip("/")
    variants: Mapping[str, Mapping[str, str]] = {"index.html": _HTML, "index.json": JSON}
    for name, accept in variants.items():
        _write(folder / name, get(model.address, path, accept).body)
        packed = get(model.address, path, {**accept, **_GZIP})
        # A subject that does not compress is compared with nginx not compressing.
        if packed.headers.get("content-encoding") == "gzip":
            _write(folder / f"{name}.gz", packed.body)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
