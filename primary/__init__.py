"""The primary: the one node that appends to the change log.

tap        options and composition
writer     group commit: the only code that appends
bootstrap  the first start: epoch, root, root/pypi
upload     the legacy upload API: from form fields to log entries
uploadform, uploadchecks, uploadrules   its form, what must agree, and what it changes
releasemetadata   form fields as metadata of a release
attestations   what comes with an upload by PEP 740
staging, staged   uploads that wait to be published together
mirroring  upstream pages become changes
feed       the log, served to followers
followers  what replicas report
devpi      the devpi-shaped JSON API
web        the Klein application
"""
