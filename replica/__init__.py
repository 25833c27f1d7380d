"""A replica: follows a primary and serves its clients near them.

tap             options and composition
follower        the service that keeps following
following       states of following, and what each fact does to them (pure)
taking          one page of the log: verified and applied
bootstrap, loading   starting from a snapshot
joining         how a new replica gets the cluster's secret
announcing, cosigning   what a replica says of itself, and of what is durable here
secretsync      node-only blobs
filesync, filesources   uploaded files that are kept here; where files come from
siblings        the other nodes, as the primary lists them
relay, via      the log served on to replicas that follow this one, never in a ring
primary_client, pagestream   questions to the primary; the pages that are its answer
owner, owners, pinned   who owns the log, who claims to, and which log it is
refreshing      asks the primary to refresh a project; upstream directly when it is away
forwarding      writes go to the primary
web             the Klein application
"""
