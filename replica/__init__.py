"""A replica: follows a primary and serves its clients near them.

tap             options and composition
follower        the service that keeps following
following       states of following, and what each fact does to them (pure)
primary_client  questions to the primary
refreshing      asks the primary to refresh a project; upstream directly when it is away
forwarding      writes go to the primary
web             the Klein application
"""
