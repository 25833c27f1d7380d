"""Tells other servers of uploads, from the log: `events` (what happened, as JSON), `jenkins`
(the job that Jenkins is given), `outbox` (what is still to be told, in local.sqlite), `sender`
(one POST), `lane` (one target's queue), `service` (reads the log, keeps a lane for each target).
"""
