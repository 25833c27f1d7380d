"""The JSON interface that devpi-client reads; both kinds of node have it.

asking     what a request asks for: JSON, an installer's page; its JSON body
discovery  +api, and the login
users      users and their indexes
indexes    one index: its options and its projects
routes     all of these in the application of a node
"""
