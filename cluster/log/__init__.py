"""The change log, the truth that every node holds a copy of.

changes     the kinds of change and their canonical bytes
merkle      leaf and node hashes, the frontier, roots of earlier sizes
checkpoint  signed checkpoints
changelog   append and read on the database
"""
