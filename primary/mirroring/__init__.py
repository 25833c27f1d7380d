"""Upstream pages become changes: refresh on demand, deltas in the log."""
