"""The servers, users and clients of the devpi cases."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.functional.devpi.client import Client, new_client
from tests.functional.devpi.peer import start_peer
from tests.functional.devpi.servers import (
    Account,
    Deployment,
    Server,
    new_account,
    new_index,
)
from tests.processes import Cluster


@pytest.fixture(scope="package")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A primary, a replica, an upstream, and an index server that is somebody else's."""
    with _deployed(tmp_path_factory.mktemp("devpi")) as deployed:
        yield deployed


@pytest.fixture
def new_deployment(tmp_path: Path) -> Iterator[Deployment]:
    """The same for one case alone."""
    with _deployed(tmp_path / "deployment") as deployed:
        yield deployed


@contextmanager
def _deployed(directory: Path) -> Iterator[Deployment]:
    directory.mkdir(exist_ok=True)
    is_peer = os.environ.get("PYMIRROR_PEER") == "devpi"
    with Cluster(directory) as cluster:
        upstream = cluster.upstream()
        options = ["--no-root-pypi"]
        elsewhere = cluster.node("elsewhere", "pymirror-primary", options).start()
        there = Server("elsewhere", elsewhere.url)
        if is_peer:
            processes, primary, replica = start_peer(directory)
            yield Deployment(primary, replica, upstream, there, is_peer)
            for process in processes:
                process.kill()
            return
        node = cluster.primary()
        follower = cluster.replica(node)
        yield Deployment(
            Server("primary", node.url), Server("replica", follower.url), upstream, there, is_peer
        )


@pytest.fixture(params=["primary", "replica"])
def server(request: pytest.FixtureRequest, deployment: Deployment) -> Server:
    """The node that a case talks to: each case runs on the primary and through the replica."""
    return deployment.primary if request.param == "primary" else deployment.replica


@pytest.fixture
def ours(deployment: Deployment) -> None:
    """Marks a case that pymirror adds to, or does better than, devpi-server."""
    if deployment.is_peer:
        pytest.skip("devpi-server has no such thing")


@pytest.fixture
def account(server: Server) -> Account:
    """A new user."""
    return new_account(server)


@pytest.fixture
def dev(server: Server, account: Account) -> str:
    """A new index of the new user."""
    return new_index(server, account)


@pytest.fixture
def bare(server: Server, tmp_path: Path) -> Client:
    """A client that does not know the server yet."""
    return new_client(server, tmp_path / "devpi")


@pytest.fixture
def devpi(bare: Client, account: Account, dev: str) -> Client:
    """A client that uses the new user's index, logged in."""
    bare.use(dev)
    bare.login(account)
    return bare
