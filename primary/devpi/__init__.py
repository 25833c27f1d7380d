"""The devpi-shaped JSON API: writes, for the primary alone.

users, indexes, projects   changed and removed; projectrules decides for projects
tokens, trusted   API tokens; the exchange of a CI's identity token for one
toxresults        results of test runs
push              pushrules within this server, pushexternal (with pushform) elsewhere,
                  pushmirrored from a mirror
importing         what `pymirror import` sends: importfiles describes, importchanges decides
rehash            weak password hashes are replaced at a login
"""
