"""What every node has: the log, the state, files, pages, and what nodes say to each other.

errors names model    values and domain errors
log                   the change log and its Merkle tree
state                 the fold over the log, and questions asked of it
files                 the content-addressed store and fetching into it
simple                project pages and the project list, rendered and negotiated
upstream              reading any upstream's simple API
auth                  who may do what
web                   what every node serves over HTTP
protocol              what nodes say to each other
cli                   the `pymirror` command
importing search      taking over a devpi server; search.sqlite
promotion rollback    a primary out of a replica; the end of a log taken back
nearest networks      which node a client should use
health hints metrics load   what status and /+metrics tell, and what to do about it
node parts options    a node's life, its parts, its options
agent clock threads singleflight durable sizes monotonic   small seams to the world
"""
