"""containerd with its runc shim, configured as a node's, except for two things.

Images do not come from a registry but are imported, and every container gets the file that models the GPUs: it stands
for the kernel module, which a container reaches whoever started it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fracgpu.native.fake_gpu import MACHINE_ENV
from tests.cluster.components.process import Component
from tests.cluster.errors import ClusterUnavailable
from tests.cluster.machine.layout import CDI_DIR, CONTAINERD_SOCKET, RUN, Layout
from tests.cluster.machine.network import POD_RANGE

PAUSE_IMAGE: Final = "fracgpu.test/pause:e2e"
# Not below /run/nvidia: containers must not see the driver but by what the plugin gives them.
_MACHINE_IN_CONTAINER: Final = Path("/run/model-gpus")
DEVICES_ENV: Final = "FRACGPU_FAKE_DEVICES"
_NAMESPACE: Final = "k8s.io"
_VERSION: Final = 3


class ContainerRuntime:
    """The container runtime of the node: `component` is containerd, `import_image` fills its store."""

    def __init__(self, layout: Layout, *, containerd_dir: Path, cni_dir: Path) -> None:
        """Write the configuration; nothing is started."""
        self._ctr = containerd_dir / "ctr"
        layout.configuration.mkdir(parents=True, exist_ok=True)
        networks = layout.configuration / "cni"
        networks.mkdir(exist_ok=True)
        (networks / "10-e2e.conflist").write_text(json.dumps(_network()))
        base_spec = layout.configuration / "base-runtime-spec.json"
        base_spec.write_text(json.dumps(self._base_spec(layout, containerd_dir)))
        config = layout.configuration / "containerd.toml"
        config.write_text(_config(layout, cni_dir=cni_dir, networks=networks, base_spec=base_spec))
        self.component = Component(
            "containerd",
            [containerd_dir / "containerd", "--config", config],
            log=layout.logs / "containerd.log",
            ready=self._serves,
            # containerd finds its shim on PATH.
            env={"PATH": f"{containerd_dir}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        )

    def import_image(self, archive: Path) -> None:
        """Make the images of an archive known to the runtime; raises ClusterUnavailable."""
        self._run("images", "import", "--local", "--no-unpack=false", archive)

    def image_names(self) -> set[str]:
        """Return the names of the images in the store."""
        return set(self._run("images", "list", "--quiet").split())

    def containers(self) -> set[str]:
        """Return the ids of all containers, sandboxes included."""
        return set(self._run("containers", "list", "--quiet").split())

    def _serves(self) -> bool:
        result = subprocess.run([*self._command(), "version"], capture_output=True, timeout=10, check=False)
        return result.returncode == 0

    def _command(self) -> list[str]:
        return [str(self._ctr), "--address", str(CONTAINERD_SOCKET), "--namespace", _NAMESPACE]

    def _run(self, *arguments: str | Path) -> str:
        command = [*self._command(), *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            what = f"{' '.join(map(str, arguments))} failed: {result.stderr.strip()}"
            raise ClusterUnavailable("containerd", what, remedy="see its log")
        return result.stdout

    @staticmethod
    def _base_spec(layout: Layout, containerd_dir: Path) -> dict[str, Any]:
        """Return the OCI spec that every container starts from: containerd's own, the model GPUs added."""
        printed = subprocess.run([containerd_dir / "ctr", "oci", "spec"], capture_output=True, check=True).stdout
        spec: dict[str, Any] = json.loads(printed)
        env: Mapping[str, str] = {MACHINE_ENV: str(_MACHINE_IN_CONTAINER / layout.gpus.name), DEVICES_ENV: "/dev"}
        spec["process"]["env"] = [f"{name}={value}" for name, value in env.items()]
        spec["mounts"].append(
            {
                "destination": str(_MACHINE_IN_CONTAINER),
                "type": "bind",
                "source": str(layout.gpus.parent),
                "options": ["rbind", "rw", "nosuid", "nodev", "noexec"],
            }
        )
        return spec


def _config(layout: Layout, *, cni_dir: Path, networks: Path, base_spec: Path) -> str:
    return f"""\
version = {_VERSION}
root = "{layout.containerd}"
state = "{RUN}/containerd"

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE_IMAGE}"

[plugins.'io.containerd.cri.v1.runtime']
  enable_cdi = true
  cdi_spec_dirs = ["/etc/cdi", "{CDI_DIR}"]
  # Without CAP_SYS_RESOURCE, as inside many virtual machines and containers, lowering the score fails.
  restrict_oom_score_adj = true

  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{cni_dir}"]
    conf_dir = "{networks}"

  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"

    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      base_runtime_spec = "{base_spec}"

      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def _network() -> dict[str, Any]:
    """Return a CNI network that joins each pod with the node, and with nothing else."""
    return {
        "cniVersion": "1.0.0",
        "name": "e2e",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": f"{RUN}/cni-addresses",
                    "ranges": [[{"subnet": POD_RANGE}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }
