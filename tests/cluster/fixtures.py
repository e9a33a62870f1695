"""Fixtures of every tier that has real components: one cluster for a whole pytest session, whoever asks for it.

A pytest plugin: the conftests of tests/cluster/scenarios and tests/scenarios register it, so that both share the
cluster. Where that comes from is in the environment, which `make e2e` sets:

    FRACGPU_E2E_BASE          a machine of our own: the cluster is started on it
    FRACGPU_E2E_GATES         feature gates of that cluster, as DRAConsumableCapacity=false
    FRACGPU_E2E_KUBECONFIG    any cluster with the driver installed; FRACGPU_E2E_IMAGE is what its pods run

Our controller allocates, as deploy/ has it. Tests with `@pytest.mark.allocator("scheduler")` come last, and before the
first of them the installation is turned so that kube-scheduler does.
"""

from __future__ import annotations

import os
import pickle
import re
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from fracgpu.driver.amounts import Allocator
from fracgpu.driver.names import DRIVER_NAME
from fracgpu.sim.lab.cluster import ClusterUnderTest
from fracgpu.sim.lab.node import NodeUnderTest
from tests.cluster.build.artifacts import Artifacts
from tests.cluster.cluster import Cluster, ClusterOptions
from tests.cluster.components.control_plane import ControlPlaneOptions
from tests.cluster.foreign import foreign_cluster
from tests.cluster.installation import owners
from tests.cluster.machine.layout import Layout
from tests.cluster.node import ClusterNode

NAME: Final = "tests.cluster.fixtures"
BASE: Final = os.environ.get("FRACGPU_E2E_BASE")
KUBECONFIG: Final = os.environ.get("FRACGPU_E2E_KUBECONFIG")
IS_REAL: Final = bool(BASE or KUBECONFIG)
# Feature gates of our own cluster that are not as Kubernetes has them: `Name=true,Other=false`.
GATES: Final = {
    name: value == "true"
    for name, _, value in (gate.partition("=") for gate in os.environ.get("FRACGPU_E2E_GATES", "").split(",") if gate)
}
# Whose value only exists on a machine of our own. A test that gets one of them, directly or not, needs the node.
_OF_THE_NODE: Final = {"artifacts", "real_cluster", "node"}
_NAME_LENGTH: Final = 50
_LEFT_OUT: Final = pytest.StashKey[int]()
_OF_OTHER_ALLOCATOR: Final = pytest.StashKey[tuple[int, str]]()
_MARKER: Final = "allocator"
# What gives a test the cluster, by whatever way.
_OF_THE_CLUSTER: Final = {"cluster", "any_cluster", "real_cluster"}
_WANTED: Final = pytest.StashKey[Allocator]()
_CLUSTER: Final = pytest.StashKey[Cluster]()


EACH_ALLOCATOR: Final = [pytest.param(who, marks=pytest.mark.allocator(who)) for who in ("controller", "scheduler")]
"""For tests that say the same of both: the values of a parameter, marked."""


def register(config: pytest.Config) -> None:
    """Register this plugin once, whichever conftest comes first."""
    if not config.pluginmanager.hasplugin(NAME):
        config.pluginmanager.register(sys.modules[NAME], NAME)


@pytest.fixture(scope="session")
def artifacts() -> Artifacts:
    """What `make e2e` has built."""
    loaded: Artifacts = pickle.loads((Path(BASE or "") / "artifacts.pickle").read_bytes())  # noqa: S301 (our own file)
    return loaded


@pytest.fixture(scope="session")
def real_cluster(artifacts: Artifacts, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """The cluster of this run with the driver installed; a test that breaks something mends it."""
    options = ClusterOptions(plane=ControlPlaneOptions(gates=GATES))
    with Cluster(artifacts, Layout(Path(BASE or "")), os.environ["FRACGPU_E2E_RUN"], options) as running:
        running.installation.install(pytestconfig.stash[_WANTED])
        pytestconfig.stash[_CLUSTER] = running
        yield running
        del pytestconfig.stash[_CLUSTER]


@pytest.fixture(scope="session")
def any_cluster(request: pytest.FixtureRequest) -> Iterator[ClusterUnderTest]:
    """The real cluster, or the one that the kubeconfig names."""
    if not KUBECONFIG:
        # Not an argument: that would say that every test which gets a cluster needs the node.
        yield request.getfixturevalue("real_cluster")
        return
    with tempfile.TemporaryDirectory() as cache, foreign_cluster(Path(KUBECONFIG), Path(cache)) as client:
        yield client


# Made anew for each module: what the plugin logged before is none of its business.
@pytest.fixture(scope="module")
def any_node(request: pytest.FixtureRequest) -> NodeUnderTest | None:
    """The node of the real cluster; None where the cluster is not ours to look into."""
    return None if KUBECONFIG else ClusterNode(request.getfixturevalue("real_cluster"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the tests in order; leave out, on a cluster that is not ours, what needs the node.

    The summary says how many those are.
    """
    items.sort(key=lambda item: _allocator_for(item) == "scheduler")
    if not KUBECONFIG:
        return
    out = [item for item in items if _OF_THE_NODE & set(getattr(item, "fixturenames", ()))]
    allocator = _foreign_allocator()
    other = [item for item in items if item not in out and _wants_other_than(allocator, item)]
    items[:] = [item for item in items if item not in out and item not in other]
    config.hook.pytest_deselected(items=out + other)
    config.stash[_LEFT_OUT] = len(out)
    config.stash[_OF_OTHER_ALLOCATOR] = (len(other), allocator)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """See to it that the GPUs are allocated by whom the test wants. Before any fixture: those look at it already.

    No GPU is in use between two tests.
    """
    if not BASE or not _OF_THE_CLUSTER & set(getattr(item, "fixturenames", ())):
        return
    stash, wanted = item.config.stash, _allocator_for(item)
    if _CLUSTER in stash and wanted != stash[_WANTED]:
        stash[_CLUSTER].installation.install(wanted)
    stash[_WANTED] = wanted


def _foreign_allocator() -> str:
    with tempfile.TemporaryDirectory() as cache, foreign_cluster(Path(KUBECONFIG or ""), Path(cache)) as client:
        return next(iter(owners(client.slices(DRIVER_NAME))))


def _wants_other_than(allocator: str, item: pytest.Item) -> bool:
    marker = item.get_closest_marker(_MARKER)
    return marker is not None and marker.args != (allocator,)


def _allocator_for(item: pytest.Item) -> Allocator:
    marker = item.get_closest_marker(_MARKER)
    return "scheduler" if marker is not None and marker.args == ("scheduler",) else "controller"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was left out, and why."""
    if KUBECONFIG:
        count = config.stash.get(_LEFT_OUT, 0)
        who = "1 test needs" if count == 1 else f"{count} tests need"
        terminalreporter.write_line(
            f"e2e: {who} the node itself, which {KUBECONFIG} does not give; `make e2e` starts a cluster that does"
        )
        count, allocator = config.stash.get(_OF_OTHER_ALLOCATOR, (0, "nobody"))
        who = "1 test is" if count == 1 else f"{count} tests are"
        terminalreporter.write_line(f"e2e: {who} not about this cluster, whose GPUs are allocated by {allocator}")


def namespace_name(test: str) -> str:
    """Return a namespace's name that tells which test it belongs to, and that no other one has or had a moment ago."""
    words = re.sub(r"[^a-z0-9]+", "-", test.lower()).strip("-")[:_NAME_LENGTH].strip("-")
    return f"{words}-{uuid.uuid4().hex[:6]}"
