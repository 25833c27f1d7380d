"""nginx as a front of a node."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.processes import ServerProcess, eventually, http

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
WHY_NOT = "nginx is not installed (apt-get install nginx-light)"


def start(text: str, port: int, folder: Path) -> ServerProcess:
    """nginx with a configuration of its http block, which listens on a port of 127.0.0.1 and
    passes on to a node; it answers when this returns.
    """
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(
        f"{user}daemon off;\npid {folder}/pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{text}}}\n"
    )
    front = ServerProcess(
        "nginx", [str(NGINX), "-p", str(folder), "-c", str(config)], folder / "log"
    )
    front.launch()

    def answers() -> bool:
        assert front.running, front.log_text()
        try:
            return http("GET", f"http://127.0.0.1:{port}/+api").status == 200
        except OSError:
            return False

    eventually(answers, 10, "nginx answers")
    return front
