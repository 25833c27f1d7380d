"""The primary: the one node that appends to the change log.

tap        options
compose    composition
writer     group commit: the only code that appends
bootstrap  the first start: epoch, root, root/pypi
upload     the legacy upload API: from form fields to log entries
uploadform, uploadchecks, uploadrules   its form, what must agree, and what it changes
releasemetadata   form fields as metadata of a release
attestations   what comes with an upload by PEP 740
staging, staged   uploads that wait to be published together
mirroring  upstream pages become changes
feed, streams   the log, served to followers; answers that go on
followers  what replicas report (reports), kept over restarts (remembered)
acks       when a write is acknowledged
joining, nodes   who becomes a node; the list of nodes
fencing, tofence   a primary that was replaced; telling those before
snapshots, snapshotfiles, compaction   snapshots, and what may go behind them
filesources   where a primary gets a file
tarsearch  one file out of a stranger's .tar.gz
triggers   tells other servers of uploads
devpi      the devpi-shaped JSON API
web        the Klein application
"""
