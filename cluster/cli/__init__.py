"""The `pymirror` command.

main       the command group
importing  take over what a devpi-server had
index      create indexes on a running node
local      a primary and two replicas on this machine, for trying pymirror out
rebuild    refill the state from the log
token      make, list and revoke API tokens
node       invite, list and revoke nodes
promote, resubmit   promote, demote; what a replaced primary had goes to the new one
furthest   what a promotion would lose; histories, also when two logs parted
snapshot   have one made, or list them
status     nodes and troubles, live
nearest    the best node from here; clientconfig writes it for pip, uv, poetry
verify     compare nodes (comparing, pace)
asking     requests to nodes
"""
