"""Index state: a fold over the change log, and the questions asked of it.

database   one engine, one writer thread, a few reader threads
schema     the tables
apply      the fold: the only way from entries to state
           nodes and releases are parts of it, rows what its functions have in common
queries    the questions; contents and links: of hosted indexes, of file links
inherit    resolution through bases
options    index options, with their values in optionvalues and PATCH's in operators
directory  users, indexes and tokens by name, remembered between their changes
position   how far this node is, and waiting for it
projectcache  what was made of the state, by project
rowstream  all rows as bytes, for snapshots
fingerprint   digests of parts of the state, for comparing nodes
upgrade    tables of another version
freshness  when upstream was last asked: node-local, outside the log
"""
