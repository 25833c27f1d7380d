"""The next version of pymirror: a copy of this one with the changes that releases bring.

It reads what this version writes. It records one more fact with each upload, which this version
may ignore; and for uploads of the project `NEWS` a kind of change that this version cannot know.
With `tables` the state has one table more, filled from the new kind, and the next VERSION.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from cluster.state import schema
from cluster.version import __version__
from tests.processes import CHECKOUT

NEWS = "tidings"
VERSION = f"{__version__}+next"
TABLES = schema.VERSION + 1
_PACKAGES = ("cluster", "primary", "replica", "twisted")

_TABLE = """
tidings = Table(
    "tidings",
    metadata,
    Column("project", Text, primary_key=True),
    Column("serial", Integer, nullable=False),
)

TABLES: Final = ("""
_STEP = """

def _add_tidings(connection: Connection) -> None:
    connection.exec_driver_sql(
        "CREATE TABLE tidings (project TEXT PRIMARY KEY NOT NULL, serial INTEGER NOT NULL)"
    )


MIGRATIONS = {**MIGRATIONS, %d: _add_tidings}
"""
_APPLIED = """
def _tidings_set(connection: Connection, entry: Entry, touched: Touched) -> None:
    if "tidings" in schema.metadata.tables:
        row = {"project": entry.payload["project"], "serial": entry.serial}
        upsert(connection, schema.metadata.tables["tidings"], [row])


_APPLY: Final"""
_RECORDED = f"""    news = {{"index": upload.index, "project": project}}
    more = [Change(Kind.TIDINGS_SET, news)] if project == "{NEWS}" else []
    return [*changes, *more, Change(Kind.FILE_ADDED, payload)]"""


def next_version(directory: Path, *, tables: bool = False) -> Path:
    """Make the copy below `directory` and return the folder of its packages."""
    folder = directory / "next"
    for package in _PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "dropin.cache")
        shutil.copytree(CHECKOUT / package, folder / package, ignore=ignored)

    def change(path: str, old: str, new: str) -> None:
        _edit(folder / path, lambda text: text.replace(old, new), text_has=old)

    change("cluster/version.py", f'"{__version__}"', f'"{VERSION}"')
    change(
        "cluster/log/changes.py", '    MIRROR_LISTING = "mirror.listing"\n',
        '    MIRROR_LISTING = "mirror.listing"\n    TIDINGS_SET = "tidings.set"\n',
    )  # fmt: skip
    change("cluster/state/apply.py", "\n_APPLY: Final", _APPLIED)
    change(
        "cluster/state/apply.py", "    Kind.MIRROR_LISTING: _mirror_listing,\n",
        "    Kind.MIRROR_LISTING: _mirror_listing,\n    Kind.TIDINGS_SET: _tidings_set,\n",
    )  # fmt: skip
    change(
        "primary/uploadrules.py", '        "log": upload.log(',
        '        "mood": "good",\n        "log": upload.log(',
    )  # fmt: skip
    change(
        "primary/uploadrules.py", "    return [*changes, Change(Kind.FILE_ADDED, payload)]",
        _RECORDED,
    )  # fmt: skip
    if tables:
        _add_table(folder / "cluster" / "state")
    return folder


def _add_table(state: Path) -> None:
    def new_schema(text: str) -> str:
        text = text.replace("\nTABLES: Final = (", _TABLE)
        text = text.replace("    tokens, nodes,\n", "    tokens, nodes, tidings,\n")
        return re.sub(r"^VERSION: Final = \d+", f"VERSION: Final = {TABLES}", text, flags=re.M)

    _edit(state / "schema.py", new_schema, text_has="    tokens, nodes,\n")
    _edit(
        state / "upgrade.py", lambda text: text + _STEP % schema.VERSION, text_has="\nMIGRATIONS: "
    )


def _edit(path: Path, change: Callable[[str], str], *, text_has: str) -> None:
    text = path.read_text()
    assert text.count(text_has) == 1, (path, text_has)
    changed = change(text)
    assert changed != text, path
    path.write_text(changed)
