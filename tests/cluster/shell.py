"""A shell on the node of a running cluster, with the driver installed, to look around and to try things out.

    python -m tests.cluster.shell                           as root; the cluster ends with the shell
    echo "kubectl get pods -A" | python -m tests.cluster.shell

`kubectl` is in PATH and acts as administrator; `ctr`, the node's files and its processes are those of any node. The
images of the tests are there (fracgpu.test/workload:e2e and others); the logs of all components are in $LOGS.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

from fracgpu.driver.errors import FracgpuError
from tests.cluster.cluster import Cluster
from tests.cluster.machine.layout import CONTAINERD_SOCKET, Layout
from tests.cluster.run import ARTIFACTS_FILE, BASE_ENV, RUN_ENV, run_on_own_machine


def main() -> int:
    """Make the machine, or, on it, start the cluster and the shell; return the shell's exit status."""
    try:
        if BASE_ENV not in os.environ:
            return run_on_own_machine([sys.executable, "-m", "tests.cluster.shell"])
        return _on_the_machine(Path(os.environ[BASE_ENV]))
    except FracgpuError as error:
        sys.stderr.write(f"tests.cluster.shell: {error}\n")
        return 1


def _on_the_machine(base: Path) -> int:
    artifacts = pickle.loads((base / ARTIFACTS_FILE).read_bytes())  # noqa: S301 (our own file)
    layout = Layout(base)
    with Cluster(artifacts, layout, os.environ[RUN_ENV]) as cluster:
        cluster.installation.install()
        programs = (artifacts.kubectl.parent, artifacts.containerd_dir)
        env = {
            **os.environ,
            "KUBECONFIG": str(cluster.plane.admin_kubeconfig),
            "PATH": ":".join([*map(str, programs), os.environ["PATH"]]),
            "CONTAINERD_ADDRESS": str(CONTAINERD_SOCKET),
            "CONTAINERD_NAMESPACE": "k8s.io",
            "LOGS": str(layout.logs),
            "PS1": r"e2e-node:\w\$ ",
        }
        return subprocess.run(["bash", "--norc"], env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
