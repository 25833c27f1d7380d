"""Taking over a devpi-server: from what `devpi-export` wrote to requests to a running primary.

jsonstream  a JSON document that may be larger than memory, value by value
dump        the users, indexes, releases and files of a dump
options     a dump's index options, as an index here takes them (pure)
upload      the requests that bring them to a primary
tally       counts of what came over, and of what did not
run         the whole import, and the dry run
"""
