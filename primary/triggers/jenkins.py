"""What Jenkins is sent after an upload: a build of a job with one file parameter (pure).

The job is the one that devpi's Jenkins trigger asks for, so it needs no change: a "File
Parameter" with the location ``jobscript.py`` and a build step that runs that file. The script
makes an environment in the workspace, installs the devpi client and tox from the index, and
runs ``devpi test``, which posts the result to the index.
"""

from __future__ import annotations

from hashlib import sha256
from urllib.parse import quote, urljoin, urlsplit

import orjson

from primary.triggers.events import Event

JOB_SCRIPT = "jobscript.py"
_FILE_FIELD = "file0"
_SCRIPT = '''\
#!/usr/bin/env python3
"""Tests a package that was uploaded: made by pymirror for a Jenkins job."""

import os
import subprocess
import sys
import venv

INDEX_URL = {index_url!a}
TEST_SPEC = {test_spec!a}


def main():
    workspace = os.getcwd()
    with open("testspec", "w") as file:
        file.write(TEST_SPEC)
    environment = os.path.join(workspace, "_devpi")
    venv.create(environment, with_pip=True)
    programs = os.path.join(environment, "Scripts" if os.name == "nt" else "bin")
    os.environ["PATH"] = programs + os.pathsep + os.environ.get("PATH", "")
    install = [os.path.join(programs, "python"), "-m", "pip", "install", "--upgrade"]
    install += ["--index-url", INDEX_URL + "/+simple/"]
    if INDEX_URL.startswith("http://"):
        install += ["--trusted-host", INDEX_URL.split("/")[2]]
    subprocess.check_call(install + ["devpi-client", "tox"])
    devpi = os.path.join(programs, "devpi")
    client = ["--clientdir", os.path.join(workspace, ".devpiclient")]
    subprocess.check_call([devpi, "use"] + client + [INDEX_URL])
    sys.exit(subprocess.call([devpi, "test"] + client + [TEST_SPEC]))


if __name__ == "__main__":
    main()
'''


def job_url(template: str, event: Event) -> str:
    """The URL to post to: ``{pkgname}`` and ``{pkgversion}`` filled in, quoted."""
    filled = template.replace("{pkgname}", quote(event.project, safe=""))
    return filled.replace("{pkgversion}", quote(event.version or "", safe=""))


def job_script(event: Event, base_url: str) -> str:
    """The Python script that the job runs; it holds no secret."""
    return _SCRIPT.format(
        index_url=f"{base_url.rstrip('/')}/{event.index}",
        test_spec=f"{event.project}=={event.version}",
    )


def job_form(event: Event, base_url: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of Jenkins' own build form, filled in (multipart/form-data, RFC 7578)."""
    boundary = f"pymirror-{sha256(event.delivery.encode()).hexdigest()[:32]}"
    parameter = {"parameter": {"name": JOB_SCRIPT, "file": _FILE_FIELD}}
    fields = {
        '"Submit"': b"Build",
        '"name"': JOB_SCRIPT.encode(),
        '"json"': orjson.dumps(parameter),
        f'"{_FILE_FIELD}"; filename="{JOB_SCRIPT}"': job_script(event, base_url).encode(),
    }
    parts = [
        f"--{boundary}\r\nContent-Disposition: form-data; name={name}\r\n\r\n".encode() + value
        for name, value in fields.items()
    ]
    body = b"\r\n".join([*parts, f"--{boundary}--\r\n".encode()])
    return {"Content-Type": f"multipart/form-data; boundary={boundary}"}, body


def went_back_to_job(asked: str, location: str) -> bool:
    """Whether a redirect leads to the job's own page: so Jenkins says that a build of it waits
    in its queue already. A login page is elsewhere."""
    there, job = urlsplit(urljoin(asked, location)), urlsplit(urljoin(asked, "."))
    return (there.scheme, there.netloc) == (job.scheme, job.netloc) and there.path.startswith(
        job.path
    )
