"""The primary: the one node that appends to the change log.

tap        options and composition
writer     group commit: the only code that appends
bootstrap  the first start: epoch, root, root/pypi
upload     the legacy upload API: from form fields to a log entry
mirroring  upstream pages become changes
feed       the log, served to followers
followers  what replicas report
devpi      the devpi-shaped JSON API
web        the Klein application
"""
