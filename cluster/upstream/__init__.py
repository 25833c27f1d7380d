"""Reading the simple API or the flat page of any upstream.

- `client`: fetches upstream pages: conditional, bounded
- `parse`: a page's bytes to values: the one door to the readers below (pure)
- `facts`: what one file entry claims, checked fact by fact (pure)
- `markup`: HTML pages as the JSON document they would be (pure)
- `tags`: the start tags of an HTML page, in linear time (pure)
- `listing`: the names of an upstream's project list, streamed (pure)
"""
