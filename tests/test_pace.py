"""What a command reads is spread over time."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from cluster.cli.pace import Pace
from cluster.cli.verify import verify


class Time:
    """Passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def sleep(self, seconds: float) -> None:
        """Let it pass."""
        assert seconds >= 0
        self.now += seconds


def test_at_a_rate() -> None:
    """No more than the rate, and a pause in between gives no right to a burst."""
    time = Time()
    pace = Pace(1_000, lambda: time.now, time.sleep)
    for _ in range(10):
        pace.read(500)
    assert time.now == pytest.approx(1005)
    time.sleep(100)
    pace.read(2_000)
    assert time.now == pytest.approx(1107)


def test_as_fast_as_it_comes() -> None:
    """Without a rate nothing waits."""
    time = Time()
    Pace(None, lambda: time.now, time.sleep).read(1 << 40)
    assert time.now == 1000.0


@pytest.mark.parametrize("rate", ["0", "fast", "-1", "50MB/min"])
def test_what_is_no_rate(rate: str) -> None:
    """It is a usage error."""
    url = "http://a.example"
    ran = CliRunner().invoke(verify, [url, "--against", url, "--rate", rate])
    assert (ran.exit_code, "is not a rate such as 50MB/s" in ran.output) == (2, True), ran.output
