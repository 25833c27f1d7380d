"""Who somebody is, and what that somebody may do.

passwords  argon2id, off the reactor
acl        rights on an index
nodes      proof that a request comes from a node of this cluster
"""
