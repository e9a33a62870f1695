"""A machine for fracgpu doctor, laid out as a directory tree: a healthy GPU node unless a test takes something away."""

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from fracgpu.cli.doctor.finding import Finding
from fracgpu.cli.doctor.host import Host
from fracgpu.cli.doctor.nvml_facts import GpuFacts, NvmlFacts
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.names import GpuUuid
from fracgpu.native.libraries import NativeLibraries, library_digest
from tests.cdi.conftest import elf_library

VERSION = "580.65.06"
UUID = GpuUuid("GPU-11111111-2222-3333-4444-555555555555")
LIBRARIES = "usr/lib/x86_64-linux-gnu"
MODULE = "proc/driver/nvidia/version"
KUBELET = "var/lib/kubelet"
CONTAINERD = "etc/containerd/config.toml"


def gpu(*, healthy: bool = True) -> Gpu:
    return Gpu(
        uuid=UUID,
        product_name="NVIDIA L40S",
        brand="NVIDIA",
        architecture="Ada",
        pci_bus_id="0000:01:00.0",
        pcie_root=None,
        numa_node=-1,
        memory_total_bytes=49140 << 20,
        minor_number=0,
        index=0,
        driver_version="580.65.6",
        cuda_driver_version="13.0.0",
        compute_capability="8.9.0",
        healthy=healthy,
    )


def one_gpu() -> NvmlFacts:
    return NvmlFacts((GpuFacts(gpu=gpu(), mig=False, vgpu=""),))


@dataclass
class Node:
    """The tree below `root`, and what can not be said by files."""

    root: Path
    interceptor: NativeLibraries | FracgpuError
    kubelet_root: Path = Path("/var/lib/kubelet")
    in_pod: bool = False
    machine: str = "x86_64"
    kernel_release: str = "6.8.0-60-generic"
    nvml: NvmlFacts | FracgpuError = field(default_factory=one_gpu)
    answering: set[str] = field(default_factory=set)

    def write(self, name: str, content: str | bytes = "") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def remove(self, name: str) -> None:
        path = self.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def host(self) -> Host:
        return Host(
            root=self.root,
            proc=self.root / "proc",
            kubelet_root=self.kubelet_root,
            in_pod=self.in_pod,
            machine=self.machine,
            kernel_release=self.kernel_release,
            ask_nvml=self._ask_nvml,
            answers=lambda path: str(path.relative_to(self.root)) in self.answering,
            locate_interceptor=self._locate,
        )

    def _ask_nvml(self, library: Path) -> NvmlFacts:
        assert library.name == f"libnvidia-ml.so.{VERSION}"
        if isinstance(self.nvml, FracgpuError):
            raise self.nvml
        return self.nvml

    def _locate(self) -> NativeLibraries:
        if isinstance(self.interceptor, FracgpuError):
            raise self.interceptor
        return self.interceptor


def healthy_node(root: Path) -> Node:
    """A node with one GPU, containerd 2, and our plugin running."""
    node = Node(root, interceptor=NativeLibraries(root / "opt/fracgpu"))
    for stem in ("libcuda", "libnvidia-ml"):
        node.write(f"{LIBRARIES}/{stem}.so.{VERSION}", elf_library(f"{stem}.so.1"))
    node.write("lib64/ld-linux-x86-64.so.2")
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm"):
        node.write(f"dev/{name}")
    node.write("usr/bin/nvidia-smi")
    node.write(MODULE, f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {VERSION}  Tue Apr 1\n")
    node.write("proc/2/comm", "kthreadd\n")
    (root / "run/cdi").mkdir(parents=True)
    (root / "var").mkdir()
    (root / "var/run").symlink_to("/run")
    node.write(CONTAINERD, "version = 3\n")
    for name in ("plugins/gpu.fracgpu.dev/dra.sock", "plugins_registry/gpu.fracgpu.dev-reg.sock"):
        node.write(f"{KUBELET}/{name}")
        node.answering.add(f"{KUBELET}/{name}")
    _prepared(node)
    for build in ("container", "standalone"):
        for library in ("libcuda.so.1", "libnvidia-ml.so.1"):
            node.write(f"opt/fracgpu/{build}/{library}")
    for name in ("libfracgpu-preload.so", "libfracgpu-preload-alias.so", "ld.so.preload"):
        node.write(f"opt/fracgpu/preload/{name}")
    return node


def _prepared(node: Node) -> None:
    checksum = "sha256:" + hashlib.sha256(b"[]").hexdigest()
    document = {"version": 1, "checksum": checksum, "claims": []}
    node.write("var/lib/fracgpu/checkpoint.json", json.dumps(document))
    stored = [node.write(f"var/lib/fracgpu/lib/new/{name}", name) for name in ("libcuda.so.1", "libnvidia-ml.so.1")]
    stored[0].parent.rename(stored[0].parent.with_name(library_digest(stored)))


def lines(findings: list[Finding]) -> list[str]:
    """The findings as `level check: what`."""
    return [f"{finding.level} {finding.check}: {finding.what}" for finding in findings]
