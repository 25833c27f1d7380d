"""Index state: a fold over the change log, and the questions asked of it.

database   one engine, one writer thread, a few reader threads
schema     the tables
apply      the fold: the only way from entries to state
queries    the questions
inherit    resolution through bases
position   how far this node is, and waiting for it
freshness  when upstream was last asked: node-local, outside the log
"""
