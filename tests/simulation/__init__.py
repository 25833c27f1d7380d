"""N nodes in one process: the nodes' own code on a clock, a network and disks of the test's.

`network` carries requests, late, twice or never; `disk` forgets what was not synced; `nodes` puts
primaries and replicas together as `tap.py` does; `history` judges what they do; `machine` is the
hypothesis state machine that plays the operator, the clients and the weather.
"""
