"""How much of everything one run does: the full one, and the quick one of two minutes."""

from __future__ import annotations

from attrs import frozen

SECTIONS = ("pages", "files", "catchup", "lag", "uploads", "memory")


@frozen
class Settings:
    """Sizes of the data set and of the measurements; times in seconds.

    `devpi_projects` is smaller than `projects` because devpi takes some 20 uploads a second;
    `slow_uploads` and `slow_lag_uploads` are its shares for the same reason.
    """

    projects: int = 200
    devpi_projects: int = 20
    releases: int = 10
    big_files: int = 2000
    large_bytes: int = 50_000_000
    rounds: int = 3
    load_seconds: float = 3.0
    connections: int = 16
    uploads: int = 400
    slow_uploads: int = 80
    lag_uploads: int = 120
    slow_lag_uploads: int = 100
    fill_connections: int = 8

    @classmethod
    def quick(cls) -> Settings:
        """A run to see that all works: figures are orders of magnitude."""
        return cls(
            projects=40,
            devpi_projects=4,
            rounds=1,
            load_seconds=1.0,
            uploads=100,
            slow_uploads=24,
            lag_uploads=100,
            slow_lag_uploads=20,
        )
