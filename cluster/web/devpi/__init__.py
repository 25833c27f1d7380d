"""The JSON interface that devpi-client reads; both kinds of node have it.

asking     what a request asks for: JSON, an installer's page; its JSON body
discovery  +api, and the login
users      users and their indexes
indexes    one index: its options and its projects
projects   a project or one release of it, through bases
links      releases, links and files as JSON values
routes     all of these in the application of a node
"""
