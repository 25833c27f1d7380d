"""Files by content: kept, fetched, read in parts.

- `ranges`: Range, If-Range and If-None-Match (pure)
- `waiting`: one event, many coroutines
- `sink`: bytes to a temporary file, hashed and counted off the reactor
- `store`: the content-addressed store on disk
- `sources`: where files come from: the seam, and HTTP
- `arrival`: a file that is still arriving, as its readers see it
- `delivery`: a body on its way from a source into a sink: bounded, watched
- `transfer`: one fetch as those see it who want the file
- `siblings`: other nodes as sources
- `hosted`, `hostedrows`: which uploaded files there are, and which of them are here
- `ledger`: when each file was last used and re-hashed
- `cachebound`: what was used longest ago goes first
- `scrub`: files are re-hashed, damaged ones replaced
- `keeping`: the last four, put together
- `zipfiles`: single members of stored zip archives
- `fetch`: one fetch per file however many want it; sources in order
"""
