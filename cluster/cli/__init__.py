"""The `pymirror` command.

main     the command group
index    create indexes on a running node
rebuild  refill the state from the log
local    a primary and two replicas on this machine, for trying pymirror out
"""
