"""Real processes on real ports: what a cluster promises to pip, uv and twine."""
