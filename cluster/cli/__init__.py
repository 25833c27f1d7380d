"""The `pymirror` command.

main       the command group
importing  take over what a devpi-server had
index      create indexes on a running node
local      a primary and two replicas on this machine, for trying pymirror out
rebuild    refill the state from the log
token      make, list and revoke API tokens
"""
