"""Search in names, summaries and descriptions: derived from the state, local to each node.

words      what people type, as an FTS5 expression that is always valid
documents  what is searched of a project, read from the state
store      search.sqlite: the documents, their words, and how far they are current
index      keeps the store current behind the commits, and answers questions
"""
