"""What every node serves over HTTP.

request   our Request: bodies that stream, the hot path, refusals
body      a request's body as a stream with back-pressure
replies   answers, and the one place where errors become answers
identity  who sent a request
simple    project pages and the project list
files     distribution files and their metadata
filebody  one file's bytes: ranges, conditions, files still arriving
log       checkpoint and tiles
status    /+status and /+ready
routes    the routes that both kinds of node have
"""
