"""The cluster that the scenarios run on. `make e2e` starts them inside a machine of their own; nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import fixtures
from tests.cluster.build.artifacts import Artifacts
from tests.cluster.cluster import Cluster
from tests.cluster.lone_plane import LonePlane, lone_plane
from tests.cluster.machine.layout import Layout

# The fast tier says how to run these; without a machine of their own they cannot even be looked at.
collect_ignore_glob = [] if fixtures.IS_REAL else ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    """Register the fixtures that the tiers share; they hold the cluster."""
    fixtures.register(config)


@pytest.fixture(scope="session")
def cluster(real_cluster: Cluster) -> Cluster:
    """The cluster of this run with the driver installed; a test that breaks something mends it."""
    return real_cluster


@pytest.fixture(scope="session")
def layout() -> Layout:
    """The directory of this run."""
    return Layout(Path(fixtures.BASE or ""))


@pytest.fixture(scope="session")
def plane(artifacts: Artifacts, layout: Layout) -> Iterator[LonePlane]:
    """A control plane of its own, without a node: for what the API server alone decides."""
    with lone_plane(artifacts, layout, "lone-plane", number=0) as running:
        yield running


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, gone with all that is in it when the test is over."""
    with cluster.namespace(fixtures.namespace_name(request.node.name)) as name:
        yield name
