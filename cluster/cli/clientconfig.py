"""Write an index into the configuration of pip and uv, and leave everything else as it is.

Files are changed as text, so that comments stay; before anything is written the result is read
again, and every other setting must have kept its value.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from configparser import Error as ConfigError
from configparser import RawConfigParser
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import tomlkit
from attrs import frozen
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT

NAME: Final = "pymirror"
_INDEX_URL, _TRUSTED_HOST = "index-url", "trusted-host"
_SECTION = re.compile(r"\[(?P<name>[^\]]+)\]")
_OPTION = re.compile(r"(?P<name>[^\s#;\[=:][^=:]*?)\s*[=:](?P<value>.*)")


class CannotWrite(Exception):
    """The configuration is not changed, and why."""


@frozen
class Changed:
    """A file that was changed, where its old content is (None: it is new), and what to know."""

    path: Path
    backup: Path | None
    notes: tuple[str, ...] = ()


def pip_file(environ: Mapping[str, str]) -> Path:
    """The user's configuration file of pip, as pip looks for it."""
    given = environ.get("PIP_CONFIG_FILE")
    if given and given != os.devnull:
        return Path(given)
    if sys.platform == "win32":
        return Path(environ["APPDATA"]) / "pip" / "pip.ini"
    legacy = Path("~/.pip/pip.conf").expanduser()
    of_mac = Path("~/Library/Application Support/pip").expanduser()
    if sys.platform == "darwin" and of_mac.is_dir():
        return of_mac / "pip.conf"
    modern = _config_home(environ) / "pip" / "pip.conf"
    return legacy if legacy.exists() and not modern.exists() else modern


def uv_file(environ: Mapping[str, str]) -> Path:
    """The user's configuration file of uv, as uv looks for it."""
    given = environ.get("UV_CONFIG_FILE")
    if given:
        return Path(given)
    if sys.platform == "win32":
        return Path(environ["APPDATA"]) / "uv" / "uv.toml"
    return _config_home(environ) / "uv" / "uv.toml"


def _config_home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()


def write_pip(path: Path, index_url: str) -> Changed:
    """Make an index pip's only one; raises CannotWrite. For http its host is trusted too."""
    old = _read(path)
    before = _pip_values(path, old)
    text = _with_option(old, _INDEX_URL, [index_url])
    url = urlsplit(index_url)
    if url.scheme == "http":
        hosts = before.get(("global", _TRUSTED_HOST), "").split()
        text = _with_option(text, _TRUSTED_HOST, list(dict.fromkeys([*hosts, url.netloc])))
    after = _pip_values(path, text)
    _same_but(before, after, {("global", _INDEX_URL), ("global", _TRUSTED_HOST)})
    if after.get(("global", _INDEX_URL)) != index_url:
        raise CannotWrite(f"{path}: there are settings that cannot be changed safely")
    others = sorted(f"[{s}] {o}" for s, o in after if s != "global" and o == _INDEX_URL)
    notes = [f"{name} is set too and comes first for that command" for name in others]
    if ("global", "extra-index-url") in after:
        notes.append("extra-index-url is set: pip goes on asking those indexes as well")
    return Changed(path, _replace(path, text), tuple(notes))


def _pip_values(path: Path, text: str) -> dict[tuple[str, str], str]:
    parser = RawConfigParser()
    try:
        parser.read_string(text)
    except ConfigError as error:
        raise CannotWrite(f"{path} cannot be read: {error}") from None
    return {
        (section, option.replace("_", "-")): value or ""
        for section in parser.sections()
        for option, value in parser.items(section)
    }


def _with_option(text: str, option: str, values: list[str]) -> str:
    """The option in [global] with these values, one a line; all other lines as they are."""
    value = values[0] if len(values) == 1 else "".join(f"\n    {one}" for one in values)
    setting = f"{option} ={'' if value.startswith(chr(10)) else ' '}{value}\n"
    text += "" if not text or text.endswith("\n") else "\n"
    lines, kept = text.splitlines(keepends=True), []
    section, dropping, place = "", False, None
    for line in lines:
        heading, given = _SECTION.match(line), _OPTION.match(line)
        if heading is not None:
            section, dropping = heading["name"], False
        elif given is not None:
            name = given["name"].lower().replace("_", "-")
            dropping = section == "global" and name == option
        elif dropping and not (line[:1].isspace() and line.strip()):
            dropping = bool(line.strip() == "")
            kept.append(line)
            continue
        if not dropping:
            kept.append(line)
        if heading is not None and section == "global" and place is None:
            place = len(kept)
    if place is None:
        return f"{text}[global]\n{setting}"
    return "".join([*kept[:place], setting, *kept[place:]])


def write_uv(path: Path, index_url: str) -> Changed:
    """Make an index uv's default one; raises CannotWrite. Other indexes stay."""
    old = _read(path)
    try:
        document = tomlkit.parse(old)
    except TOMLKitError as error:
        raise CannotWrite(f"{path} cannot be read: {error}") from None
    listed = document.get("index")
    if listed is None:
        listed = document["index"] = tomlkit.aot()
    if not isinstance(listed, AoT):
        raise CannotWrite(f"{path}: write its indexes as [[index]] tables first")
    others = [one for one in listed if one.get("name") != NAME]
    table = next((one for one in listed if one.get("name") == NAME), None)
    if table is None:
        table = tomlkit.table()
        table["name"] = NAME
        listed.append(table)
        table = listed[-1]
    table["url"] = index_url
    notes = []
    if any(one.get("default") is True for one in others):
        table.pop("default", None)
        notes.append("another index is the default one: pymirror's is asked before it")
    else:
        table["default"] = True
    if "index-url" in document:
        notes.append("index-url is set: uv prefers the [[index]] tables")
    text = tomlkit.dumps(document)
    _same_but(_uv_values(path, old), _uv_values(path, text), {"index"})
    return Changed(path, _replace(path, text), tuple(notes))


def _uv_values(path: Path, text: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CannotWrite(f"{path} cannot be changed safely: {error}") from None
    listed = values.get("index", [])
    return {**values, "others": [one for one in listed if one.get("name") != NAME]}


def poetry_commands(index_url: str) -> list[str]:
    """What to type in a project's folder: poetry keeps sources in each pyproject.toml."""
    return [f"poetry source add --priority=primary {NAME} {index_url}", "poetry lock"]


def _same_but(before: Mapping[Any, Any], after: Mapping[Any, Any], changed: set[Any]) -> None:
    keys = (before.keys() | after.keys()) - changed
    if any(before.get(key) != after.get(key) for key in keys):
        raise CannotWrite("another setting would have changed; nothing is written")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise CannotWrite(f"{path} cannot be read: {error}") from None


def _replace(path: Path, text: str) -> Path | None:
    """Replace a file at once, keeping its mode; where the old one is."""
    path = path.resolve()  # a link stays a link
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        backup = _backup(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with open(handle, "w", encoding="utf-8") as new:
            new.write(text)
        if backup is not None:
            shutil.copymode(path, name)
        Path(name).replace(path)
    except OSError as error:
        raise CannotWrite(f"{path} cannot be written: {error}") from None
    return backup


def _backup(path: Path) -> Path | None:
    if not path.exists():
        return None
    number, backup = 1, path.with_name(f"{path.name}.backup")
    while backup.exists():
        number, backup = number + 1, path.with_name(f"{path.name}.backup{number + 1}")
    shutil.copy2(path, backup)
    return backup
