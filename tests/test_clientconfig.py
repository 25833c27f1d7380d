"""The configuration of pip and uv: the index is set, and nothing else changes."""

from __future__ import annotations

import json
import shlex
import stat
import tomllib
from configparser import RawConfigParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from cluster.cli import nearest
from cluster.cli.clientconfig import (
    CannotWrite,
    pip_file,
    poetry_commands,
    uv_file,
    write_pip,
    write_uv,
)
from cluster.cli.nearest import Measured, best

URL = "http://near.example:3141/root/pypi/+simple/"
SECURE = "https://near.example/root/pypi/+simple/"

PIP = """\
# ours
[global]
timeout = 60   ; why not
index_url = https://old.example/simple/
trusted-host =
    old.example
    # a word
    other.example:81

extra-index-url = https://extra.example/simple/
[install]
index-url = https://for-install.example/
[wheel]
no-binary = :none:"""


def parsed(path: Path) -> dict[str, dict[str, str]]:
    parser = RawConfigParser()
    parser.read(path)
    return {name: dict(parser.items(name)) for name in parser.sections()}


def test_pip(tmp_path: Path) -> None:
    """Index and host are set in [global]; comments and all other settings stay, also in a
    backup; writing again changes nothing more."""
    path = tmp_path / "pip.conf"
    path.write_text(PIP)
    path.chmod(0o640)
    changed = write_pip(path, URL)
    values = parsed(path)
    assert values["global"]["index-url"] == URL
    assert "index_url" not in values["global"]
    hosts = values["global"]["trusted-host"].split()
    assert hosts == ["old.example", "other.example:81", "near.example:3141"]
    assert values["global"]["extra-index-url"] == "https://extra.example/simple/"
    assert values["wheel"] == {"no-binary": ":none:"}
    assert path.read_text().startswith("# ours\n[global]\n")
    assert "timeout = 60   ; why not" in path.read_text()
    assert changed.backup is not None
    assert changed.backup.read_text() == PIP
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert any("[install]" in note for note in changed.notes)
    assert any("extra-index-url" in note for note in changed.notes)
    again = write_pip(path, URL)
    assert parsed(path) == values
    assert again.backup not in (None, changed.backup)


@pytest.mark.parametrize("text", ["", "[global]", "[global]\n", "[list]\nformat = columns", "\n\n"])
def test_pip_from_little(tmp_path: Path, text: str) -> None:
    """A missing section is made; https needs no trust."""
    path = tmp_path / "sub" / "pip.conf"
    if text:
        path.parent.mkdir()
        path.write_text(text)
    assert (write_pip(path, SECURE).backup is None) == (not text)
    assert parsed(path)["global"] == {"index-url": SECURE}


@pytest.mark.parametrize("text", ["[global\nx", "no section = 1", "[global]\nx=1\nx=2\n"])
def test_pip_broken(tmp_path: Path, text: str) -> None:
    """A file that pip itself could not read is left alone."""
    path = tmp_path / "pip.conf"
    path.write_text(text)
    with pytest.raises(CannotWrite):
        write_pip(path, URL)
    assert [path.read_text(), *tmp_path.iterdir()] == [text, path]


_lines = st.sampled_from([
    "[global]\n", "[install]\n", "index-url = https://a.example\n", "index_url: x\n", "timeout=3\n",
    "    continued\n", "\n", "# comment\n", "trusted-host = a\n", "extra-index-url =\n",
])  # fmt: skip


@given(st.lists(_lines, max_size=12).map("".join))
def test_pip_any_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever the file is, pip gets the index and keeps the rest, or nothing is written."""
    path = tmp_path_factory.mktemp("pip") / "pip.conf"
    path.write_text(text)
    try:
        write_pip(path, URL)
    except CannotWrite:
        assert path.read_text() == text
    else:
        assert parsed(path)["global"]["index-url"] == URL


UV = """\
# ours
offline = false
index-url = "https://old.example/simple/"

[[index]]  # first
name = "other"
url = "https://other.example/simple/"

[pip]
index-url = "https://old.example/simple/"
"""


def test_uv(tmp_path: Path) -> None:
    """Our index becomes the default one, others and comments stay; a second time moves it."""
    path = tmp_path / "uv.toml"
    path.write_text(UV)
    write_uv(path, "https://first.example/")
    changed = write_uv(path, URL)
    values = tomllib.loads(path.read_text())
    assert [one["name"] for one in values["index"]] == ["other", "pymirror"]
    assert values["index"][1] == {"name": "pymirror", "url": URL, "default": True}
    assert values["pip"] == {"index-url": "https://old.example/simple/"}
    assert "# ours" in path.read_text()
    assert "# first" in path.read_text()
    assert changed.notes
    assert changed.backup == tmp_path / "uv.toml.backup2"
    assert (tmp_path / "uv.toml.backup").read_text() == UV


def test_uv_with_a_default(tmp_path: Path) -> None:
    """Two default indexes would be an error of uv's."""
    path = tmp_path / "uv.toml"
    path.write_text('[[index]]\nurl = "https://x.example/"\ndefault = true\n')
    assert write_uv(path, URL).notes
    listed = tomllib.loads(path.read_text())["index"]
    assert [one.get("default") for one in listed] == [True, None]


@pytest.mark.parametrize("text", ["[[index]", 'index = [{url = "x"}]', "index = 1"])
def test_uv_broken(tmp_path: Path, text: str) -> None:
    """What cannot be changed safely is left alone."""
    path = tmp_path / "uv.toml"
    path.write_text(text)
    with pytest.raises(CannotWrite):
        write_uv(path, URL)
    assert path.read_text() == text


def test_files(tmp_path: Path) -> None:
    """The files are those that the clients read."""
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "pip.conf").touch()
    assert pip_file(environ) == tmp_path / "pip" / "pip.conf"
    assert uv_file(environ) == tmp_path / "uv" / "uv.toml"
    assert pip_file({"PIP_CONFIG_FILE": "/x"}) == Path("/x")
    assert uv_file({"UV_CONFIG_FILE": "/x"}) == Path("/x")


def measured(url: str, **more: object) -> Measured:
    values = {
        "role": "replica", "region": None, "fresh": True, "connect_seconds": 0.01,
        "latency_seconds": 0.01, **more,
    }  # fmt: skip
    return Measured(url, **values)  # type: ignore[arg-type]


def test_best() -> None:
    """Latency and throughput count together, staleness excludes, the primary is the last."""
    slow = measured("slow", latency_seconds=0.001, throughput=1e5)
    fast = measured("fast", latency_seconds=0.02, throughput=1e8)
    primary = measured("primary", role="primary", latency_seconds=0.0001)
    stale = measured("stale", fresh=False, latency_seconds=0.0001)
    dead = Measured("dead", "replica", None, False, error="no route")
    assert best([dead, primary, stale, slow, fast]) is fast
    assert best([dead, primary, stale]) is primary
    assert best([dead, stale]) is None
    assert nearest.measure({"url": "http://127.0.0.1:1"}, 1, None).error


def test_poetry_commands() -> None:
    """What poetry is told adds a source of our name that goes before all others, and is one
    command a line, each of which a shell reads as it stands."""
    add, lock = [shlex.split(command) for command in poetry_commands(SECURE)]
    assert add == ["poetry", "source", "add", "--priority=primary", "pymirror", SECURE]
    assert lock == ["poetry", "lock"]


@pytest.mark.parametrize("as_json", [True, False])
def test_nearest_for_poetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    """`--write poetry` prints the commands for the best node, beside a JSON document and not in
    it, and changes no file."""
    node = Measured("http://near.example:3141", "replica", None, True, 0.1, 0.1)
    monkeypatch.setattr(nearest, "listed", lambda url: [{"url": node.url}])
    monkeypatch.setattr(nearest, "measure", lambda *asked: node)
    monkeypatch.chdir(tmp_path)
    arguments = ["http://any.example:3141", "--write", "poetry", "--index", "root/dev"]
    done = CliRunner().invoke(nearest.nearest, [*arguments, *(["--json"] if as_json else [])])
    assert list(tmp_path.iterdir()) == []
    assert done.exit_code == 0, done.output
    wanted = poetry_commands("http://near.example:3141/root/dev/+simple/")
    shown = done.stderr if as_json else done.stdout
    assert [line.strip() for line in shown.splitlines()[-2:]] == wanted
    if as_json:
        assert json.loads(done.stdout)["chosen"] == node.url
