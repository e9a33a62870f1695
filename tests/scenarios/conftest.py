"""Scenarios that run on both clusters: on the embedded one in the fast tier, on real components by `make e2e`.

A scenario asks for `cluster` and `namespace`, and for `node` where it looks at files of the node; what it gets it
cannot tell apart. `@pytest.mark.needs("what")` marks what the emulator cannot do: there it is skipped with that
reason, on a real cluster never. In the embedded cluster fracgpu's controller allocates, or, with
FRACGPU_LAB_ALLOCATOR=scheduler, the stand-in for kube-scheduler.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import cast

import pytest

from fracgpu.driver.amounts import Allocator
from fracgpu.native.libraries import NativeLibraries
from fracgpu.sim.lab.cluster import ClusterUnderTest
from fracgpu.sim.lab.lab import Lab
from fracgpu.sim.lab.node import NodeUnderTest
from fracgpu.sim.lab.options import Card, LabOptions
from tests.cluster import fixtures

# What tests.cluster.machine.gpus gives the real node: two GPUs of one product, a smaller one of another.
_CARDS = (Card(), Card(), Card(product_name="NVIDIA T4 (model)", memory_mib=15360, compute_capability="7.5"))


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the fixtures that the tiers share."""
    config.addinivalue_line("markers", "needs(what): what only a real cluster has; `make e2e` runs the test")
    fixtures.register(config)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip on the emulator what it cannot do."""
    marker = item.get_closest_marker("needs")
    if marker is not None and not fixtures.IS_REAL:
        pytest.skip(f"the emulator has no {marker.args[0]}; on real components: make e2e")


@pytest.fixture(scope="session")
def lab(native_build: NativeLibraries) -> Iterator[Lab]:
    """The embedded cluster of the fast tier: one for all scenarios, as they share one real cluster too."""
    allocator = cast("Allocator", os.environ.get("FRACGPU_LAB_ALLOCATOR", "controller"))
    with Lab(LabOptions(cards=_CARDS, allocator=allocator)) as running:
        yield running
        assert running.access.refused == [], "the driver lacked a right"


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> ClusterUnderTest:
    """The cluster of this tier with the driver installed; a scenario leaves it as it was."""
    found: ClusterUnderTest = request.getfixturevalue("any_cluster" if fixtures.IS_REAL else "lab")
    return found


@pytest.fixture(scope="module")
def node(request: pytest.FixtureRequest) -> NodeUnderTest:
    """The node of that cluster. On a cluster that is not ours there is none, and tests that ask for it are left out."""
    found: NodeUnderTest = request.getfixturevalue("any_node" if fixtures.IS_REAL else "lab")
    return found


@pytest.fixture
def namespace(cluster: ClusterUnderTest, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, gone with all that is in it when the test is over."""
    with cluster.namespace(fixtures.namespace_name(request.node.name)) as name:
        yield name
