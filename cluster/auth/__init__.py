"""Who somebody is, and what that somebody may do.

passwords  argon2id, off the reactor
acl        rights on an index
nodes      proof that a request comes from a node of this cluster
nodekeys   nodes' own keys, and who is admitted as a node
jointokens how a new node gets the cluster's secret
logins     login tokens: what a right password is exchanged for
tokens     API tokens and their limits
tokenuse   when each API token was last used here
limits     limits on guessing passwords
oidc       trusted publishers and their identity tokens
oidckeys   the keys of those who issue identity tokens
"""
