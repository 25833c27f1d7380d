"""What every node serves over HTTP.

request   our Request: bodies that stream, the hot path, refusals
body      a request's body as a stream with back-pressure
replies   answers, and the one place where errors become answers
identity  who sent a request
simple    project pages and the project list
quick     cached pages, answered with prepared bytes
unlogged  files of pages that came straight from an upstream
files     distribution files and their metadata
docs      documentation, member by member out of its zip
hotfiles  files that were asked for lately
fileplan  how a request for a file is answered: ranges and conditions
filebody  one file's bytes, stored or still arriving
authcheck whether a front may let a request through
chains    the indexes behind a URL that the one who asks may read
finding   legacy, search and xmlrpc as one part of a node
legacy    the legacy JSON documents of projects and releases
search    /+search
xmlrpc    pip search and what old mirrors ask; calls and lists are in xmlcalls and xmllists
uploadtarget  which requests are uploads
provenance    what came with files by PEP 740
stages        uploads that wait to be published together
log       checkpoint and tiles
status    /+status and /+ready; statusview leaves out what is not for the one who asks
          rootpassword, devpistatus: parts of it; metrics: GET /+metrics
nearest   GET /+nearest
access    what the sender of a request may read
headers   what every answer says of this node; outside: by which URL clients reach it
tail, polls   what serving the log has in common on both kinds of node
nodefiles, fingerprints   what nodes ask each other: files, digests of the state
toxtarget     which requests bring a test's result
paths     what only the primary answers
routes    the routes that both kinds of node have
"""
