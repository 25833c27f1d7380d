"""The change log, the truth that every node holds a copy of.

changes     the kinds of change and their canonical bytes
merkle      leaf and node hashes, the frontier, roots of earlier sizes
checkpoint  signed checkpoints
driver      the database driver, for what is done a million times
changelog   append and read on the database
epochs      who owns the log, and the proof of it
notes       the owner's checkpoints that a replica keeps
snapshot    signed manifests and chunks of snapshots
"""
