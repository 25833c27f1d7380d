"""Real nodes on hosts of their own, faults between them, and clients whose history is judged."""
