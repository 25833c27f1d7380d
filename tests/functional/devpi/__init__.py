"""The real devpi-client, twine, uv and pip against a primary and through a replica.

``client.py`` runs devpi-client, ``servers.py`` describes the servers under test, ``sources.py``
writes source trees that build offline, ``peer.py`` starts devpi-server in pymirror's place: with
``PYMIRROR_PEER=devpi`` the same cases run against it, which shows that they are right.
"""
