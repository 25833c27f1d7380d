"""The simple API as this node answers it (PEP 503, 691, 700, 714, 740, 792).

- `negotiate`: which of the three formats a client wants, and whether gzip (pure)
- `pages`: a project page and the project list as bytes (pure)
- `cache`: rendered bytes and ETags, by project
- `listing`: the project list, rendered to disk
"""
