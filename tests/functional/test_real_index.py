"""Real packages from the real default upstream; skipped where it cannot be reached."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from pypi_simple import PYPI_SIMPLE_ENDPOINT

from tests.functional.helpers import check_same_pages
from tests.installers import pip_install, uv_install
from tests.processes import Cluster

pytestmark = [pytest.mark.functional, pytest.mark.internet]


def _reachable() -> bool:
    try:
        with urllib.request.urlopen(f"{PYPI_SIMPLE_ENDPOINT}six/", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_real_packages(nodes: Cluster, tmp_path: Path) -> None:
    """pip and uv install real packages through a replica of a primary with default settings."""
    if not _reachable():
        pytest.skip("the default upstream is out of reach")
    primary = nodes.primary(PYPI_SIMPLE_ENDPOINT)
    replica = nodes.replica(primary)
    url = f"{replica.url}/root/pypi/+simple/"
    pip_install(url, "requests", "attrs", "six", target=tmp_path / "pip")
    primary.kill()
    uv_install(url, "requests", "attrs", "six", target=tmp_path / "uv")
    for target in ("pip", "uv"):
        assert (tmp_path / target / "requests" / "__init__.py").exists()
        assert (tmp_path / target / "attr" / "__init__.py").exists()
        assert (tmp_path / target / "six.py").exists()
    primary.start()
    check_same_pages((primary, replica), "root/pypi", ["requests", "attrs", "six"])
