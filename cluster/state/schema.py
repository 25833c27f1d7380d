"""The tables of the index state. All of them are derived: `pymirror rebuild` refills them.

Names are natural keys (``user/index``, normalized project names), so two nodes that applied
the same entries hold the same rows. A project or a listed name that was removed keeps its row
with ``present = 0``: the serial of a page must never go backwards (standards C4).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, Index, Integer, LargeBinary, MetaData, Table, Text, text

metadata = MetaData()

epochs = Table(
    "epochs",
    metadata,
    Column("epoch", Integer, primary_key=True),
    Column("serial", Integer, nullable=False),
    Column("log", Text, nullable=False),
    Column("key", Text, nullable=False),
    # Of epochs after the first: the owner's uuid, and what proves that it may own the log.
    Column("node", Text),
    Column("proof", Text),
)

users = Table(
    "users",
    metadata,
    Column("name", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("serial", Integer, nullable=False),
)

indexes = Table(
    "indexes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    # sha256 of the node-only blob with the upstream's and the webhooks' credentials.
    Column("secrets", Text),
    Column("serial", Integer, nullable=False),
)

projects = Table(
    "projects",
    metadata,
    Column("index_name", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("display", Text, nullable=False),
    Column("present", Integer, nullable=False),
    Column("status", LargeBinary, nullable=False),
    Column("bare_versions", LargeBinary, nullable=False),
    Column("serial", Integer, nullable=False),
    sqlite_with_rowid=False,
)

files = Table(
    "files",
    metadata,
    Column("index_name", Text, primary_key=True),
    Column("project", Text, primary_key=True),
    Column("filename", Text, primary_key=True),
    # What file links carry: 16 hex digits of the sha256, or of the URL's sha256 ("+e").
    Column("link", Text, nullable=False),
    # The "+e" link that a file had before its sha256 was computed; pages with it are still out.
    Column("url_link", Text),
    Column("body", LargeBinary, nullable=False),
    Column("log", LargeBinary, nullable=False),
    Column("serial", Integer, nullable=False),
    Index("files_link", "link"),
    Index("files_url_link", "url_link", sqlite_where=text("url_link IS NOT NULL")),
    sqlite_with_rowid=False,
)

listing = Table(
    "listing",
    metadata,
    Column("index_name", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("display", Text, nullable=False),
    Column("present", Integer, nullable=False),
    Column("serial", Integer, nullable=False),
    sqlite_with_rowid=False,
)

releases = Table(
    "releases",
    metadata,
    Column("index_name", Text, primary_key=True),
    Column("project", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("serial", Integer, nullable=False),
    sqlite_with_rowid=False,
)

docs = Table(
    "docs",
    metadata,
    Column("index_name", Text, primary_key=True),
    Column("project", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("filename", Text, nullable=False),
    Column("link", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("log", LargeBinary, nullable=False),
    Column("serial", Integer, nullable=False),
    Index("docs_link", "link"),
    sqlite_with_rowid=False,
)

toxresults = Table(
    "toxresults",
    metadata,
    Column("index_name", Text, primary_key=True),
    Column("project", Text, primary_key=True),
    Column("filename", Text, primary_key=True),
    Column("result", Text, primary_key=True),
    # That of the file which was tested: devpi keeps both in one folder.
    Column("link", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("log", LargeBinary, nullable=False),
    Column("serial", Integer, nullable=False),
    Index("toxresults_link", "link"),
    sqlite_with_rowid=False,
)

# Names that links out there still point to: they answer 410, not 404.
removed = Table(
    "removed",
    metadata,
    Column("index_name", Text, primary_key=True),
    Column("link", Text, primary_key=True),
    Column("filename", Text, primary_key=True),
    Column("serial", Integer, nullable=False),
    sqlite_with_rowid=False,
)

# Changes that wait for `stage.published`, by the serial at which they were recorded.
staged = Table(
    "staged",
    metadata,
    Column("index_name", Text, primary_key=True),
    Column("stage", Text, primary_key=True),
    Column("serial", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("serial", Integer, nullable=False),
    Index("tokens_user", "user"),
)

# The keys of those that joined by one, and all that were revoked, whether they joined or not.
nodes = Table(
    "nodes",
    metadata,
    Column("uuid", Text, primary_key=True),
    Column("key", Text),
    Column("name", Text),
    Column("invite", Text),
    Column("revoked", Integer, nullable=False),
    Column("serial", Integer, nullable=False),
)

TABLES: Final = (
    epochs, users, indexes, projects, files, listing, releases, docs, toxresults, removed, staged,
    tokens, nodes,
)  # fmt: skip
VERSION: Final = 4
"""Of these tables: a database made with another one is refilled from the log at start."""
