"""`make e2e KUBECONFIG=...`: the same scenarios on a cluster that somebody else runs.

Somebody else's cluster is played by our own, used from outside: through a kubeconfig, with no word of its node.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.cluster import foreign, run
from tests.cluster.cluster import Cluster
from tests.cluster.lone_plane import LonePlane

_LIMIT_S = 300
_SCENARIOS = "tests/scenarios/test_one_slice.py"
_EXERCISES = "tests/cluster/scenarios/test_exercises.py"


def run_against(kubeconfig: Path, kubectl: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in (run.BASE_ENV, run.RUN_ENV)}
    env |= {foreign.KUBECTL_ENV: str(kubectl), foreign.IMAGE_ENV: "fracgpu.test/workload:e2e"}
    command = [sys.executable, "-m", "tests.cluster.run", "--kubeconfig", str(kubeconfig), *arguments]
    return subprocess.run(command, env=env, check=False, capture_output=True, text=True, timeout=_LIMIT_S)


def test_scenarios_and_exercises_pass_from_outside(cluster: Cluster) -> None:
    kubeconfig = cluster.plane.admin_kubeconfig
    ended = run_against(kubeconfig, cluster.kubectl.program, _SCENARIOS, _EXERCISES)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "6 passed, 7 deselected" in ended.stdout
    assert f"e2e: 2 tests need the node itself, which {kubeconfig} does not give" in ended.stdout
    assert "e2e: 5 tests are not about this cluster, whose GPUs are allocated by controller" in ended.stdout
    assert "skipped" not in ended.stdout


def test_without_the_driver_it_fails_and_says_so(plane: LonePlane) -> None:
    kubeconfig = plane.plane.admin_kubeconfig
    ended = run_against(kubeconfig, plane.kubectl.program, _SCENARIOS)
    assert ended.returncode == 1
    assert "make e2e: cluster of" in ended.stderr
    assert "the driver is not installed there" in ended.stderr
    assert "deploy/README.md" in ended.stderr
    assert ended.stdout == ""


def test_a_cluster_that_does_not_answer_fails_and_says_so(cluster: Cluster, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    text = cluster.plane.admin_kubeconfig.read_text()
    # Nothing listens on the discard port.
    kubeconfig.write_text(text.replace(cluster.plane.server, "https://127.0.0.1:9"))
    ended = run_against(kubeconfig, cluster.kubectl.program, _SCENARIOS)
    assert ended.returncode == 1
    assert "does not show its ResourceSlices" in ended.stderr
    assert "check the kubeconfig" in ended.stderr
