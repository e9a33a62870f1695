"""What may be so on a machine, and the line that fracgpu doctor must print for it."""

import os
from collections.abc import Callable
from pathlib import Path

from fracgpu.cdi.spec import CdiDevice, CdiSpec, ContainerEdits
from fracgpu.cli.doctor.nvml_facts import GpuFacts, NvmlFacts
from fracgpu.cli.errors import NoAnswer
from fracgpu.driver.names import CDI_CLASS, CDI_VENDOR
from fracgpu.native.errors import NativeLibrariesMissing
from tests.cli.doctor_host import CONTAINERD, KUBELET, LIBRARIES, MODULE, UUID, VERSION, Node, gpu

Change = Callable[[Node], object]


def refuse(error: Exception) -> Change:
    return lambda node: setattr(node, "nvml", error)


def facts(*, healthy: bool = True, mig: bool = False, vgpu: str = "") -> Change:
    one = GpuFacts(gpu=gpu(healthy=healthy), mig=mig, vgpu=vgpu)
    return lambda node: setattr(node, "nvml", NvmlFacts((one,)))


def attribute(name: str, value: object) -> Change:
    return lambda node: setattr(node, name, value)


def text(name: str, content: str) -> Change:
    return lambda node: node.write(name, content)


def gone(*names: str) -> Change:
    def change(node: Node) -> None:
        for name in names:
            node.remove(name)

    return change


def several(*changes: Change) -> Change:
    def change(node: Node) -> None:
        for one in changes:
            one(node)

    return change


def damaged(node: Node) -> None:
    (library,) = (node.root / "var/lib/fracgpu/lib").glob("*/libcuda.so.1")
    library.write_text("something else")


def half_stored(node: Node) -> None:
    (library,) = (node.root / "var/lib/fracgpu/lib").glob("*/libcuda.so.1")
    library.unlink()


def served(*names: str) -> Change:
    def change(node: Node) -> None:
        for name in names:
            node.write(f"{KUBELET}/{name}")
            node.answering.add(f"{KUBELET}/{name}")

    return change


def silent(node: Node) -> None:
    node.answering.clear()


def no_driver(node: Node) -> None:
    node.remove(LIBRARIES)


def pipe(name: str) -> Change:
    """A named pipe: whoever opens it for reading waits for a writer, and there is none."""

    def change(node: Node) -> None:
        path = node.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    return change


def pipe_in_store(node: Node) -> None:
    (library,) = (node.root / "var/lib/fracgpu/lib").glob("*/libcuda.so.1")
    library.unlink()
    os.mkfifo(library)


def real_spec(node: Node) -> None:
    devices = (CdiDevice(name="uid", edits=ContainerEdits(env=("A=b",))),)
    node.write("run/cdi/ours.json", CdiSpec(vendor=CDI_VENDOR, device_class=CDI_CLASS, devices=devices).to_json())


def linked(name: str, target: str) -> Change:
    def change(node: Node) -> None:
        path = node.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)

    return change


def containerd(content: str) -> Change:
    return text(CONTAINERD, content)


V2, V3 = '[plugins."io.containerd.grpc.v1.cri"]\n', '[plugins."io.containerd.cri.v1.runtime"]\n'
TIME_SLICING = f"{KUBELET}/pods/uid/volumes/kubernetes.io~configmap/config/any"

CASES: list[tuple[str, Change, str]] = [
    ("other machine", attribute("machine", "riscv64"), "fail architecture: riscv64 is not one that"),
    ("old kernel", attribute("kernel_release", "4.9.0"), "fail kernel: 4.9.0 is too old"),
    ("oldest kernel", attribute("kernel_release", "4.14.0"), "ok kernel: 4.14.0"),
    ("strange kernel", attribute("kernel_release", "x"), "fail kernel: x is too old"),
    ("no libc", gone("lib64"), "info C library: none found"),
    (
        "musl",
        several(gone("lib64"), text("lib/ld-musl-x86_64.so.1", "")),
        "info C library: musl: fracgpu run can not limit",
    ),
    (
        "no interceptor",
        attribute("interceptor", NativeLibrariesMissing("native libraries in /x", "are not built")),
        "fail interceptor: native libraries in /x: are not built",
    ),
    (
        "half an interceptor",
        gone("opt/fracgpu/standalone/libcuda.so.1"),
        "fail interceptor: native library .*/standalone/libcuda.so.1: is not built",
    ),
    ("no driver", no_driver, "fail driver: no NVIDIA driver in any usual place"),
    ("no driver, so no question", no_driver, "info NVML: not asked"),
    (
        "half a driver",
        gone(f"{LIBRARIES}/libnvidia-ml.so.{VERSION}"),
        f"fail driver: .*libcuda.so.{VERSION} is there but",
    ),
    (
        "a driver that is being installed",
        text(f"{LIBRARIES}/libcuda.so.{VERSION}", ""),
        f"fail driver: library .*libcuda.so.{VERSION}: is no complete",
    ),
    ("no nvidia-smi", gone("usr/bin/nvidia-smi"), "info driver: nvidia-smi is missing"),
    ("no module", gone(MODULE), "fail kernel module: nvidia is not loaded"),
    (
        "other module",
        text(MODULE, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.1.1  Tue\n"),
        f"fail kernel module: 570.1.1 is loaded, the libraries are {VERSION}",
    ),
    ("no uvm", gone("dev/nvidia-uvm"), "fail device nodes: /dev/nvidia-uvm missing"),
    ("no node of a GPU", gone("dev/nvidia0"), "fail device nodes: /dev/nvidia<number> missing"),
    ("hanging NVML", refuse(NoAnswer("NVML", "did not answer", remedy="reboot")), "fail NVML: NVML: did not answer"),
    ("no GPU", attribute("nvml", NvmlFacts(())), "fail NVML: answers, and shows no GPU"),
    ("lost GPU", facts(healthy=False), f"fail GPU 0: {UUID} does not answer"),
    ("MIG", facts(mig=True), f"warn GPU 0: NVIDIA L40S, 49140Mi, {UUID}: MIG is on"),
    ("vGPU", facts(vgpu="guest"), f"info GPU 0: NVIDIA L40S, 49140Mi, {UUID}: vGPU guest"),
    ("no CDI directory", gone("run/cdi"), "info CDI directory: /var/run/cdi is not there yet"),
    (
        "a file as CDI directory",
        several(gone("run/cdi"), text("run/cdi", "")),
        "fail CDI directory: /var/run/cdi is no directory",
    ),
    ("our spec", text("run/cdi/ours.json", '{"kind": "gpu.fracgpu.dev/claim"}'), "ok CDI specs: 1 of ours"),
    (
        "NVIDIA's spec in YAML",
        text("etc/cdi/nvidia.yaml", "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices: []\n"),
        r"info CDI specs: /etc/cdi/nvidia.yaml \(nvidia.com/gpu\) brings a driver",
    ),
    (
        "somebody's spec with libcuda",
        text("run/cdi/x.json", '{"cdiVersion": "0.5.0",\n"kind": "x.com/y", "m": "/usr/lib/libcuda.so.1"}'),
        r"info CDI specs: /var/run/cdi/x.json \(x.com/y\) brings a driver",
    ),
    ("our spec as we write it", real_spec, "ok CDI specs: 1 of ours"),
    (
        "somebody's spec on one line",
        text("run/cdi/x.json", '{"cdiVersion":"0.5.0","devices":[],"kind":"nvidia.com/gpu"}'),
        r"info CDI specs: /var/run/cdi/x.json \(nvidia.com/gpu\) brings a driver",
    ),
    ("a spec of nothing but lines", text("etc/cdi/x.yaml", "\n" * 200_000), "ok CDI specs: 0 of ours"),
    ("a spec that is no object", text("etc/cdi/x.json", '["kind"]'), "ok CDI specs: 0 of ours"),
    ("a spec that is a pipe", pipe("etc/cdi/x.json"), "ok CDI specs: 0 of ours"),
    (
        "a spec elsewhere on the host",
        several(text("opt/x.json", '{"kind": "nvidia.com/gpu"}'), linked("etc/cdi/x.json", "/opt/x.json")),
        r"info CDI specs: /etc/cdi/x.json \(nvidia.com/gpu\)",
    ),
    ("a spec without a driver", text("run/cdi/nic.json", '{"kind": "nic.com/nic"}'), "ok CDI specs: 0 of ours"),
    ("a spec of no kind", text("run/cdi/bad.json", "libcuda.so"), r"info CDI specs: .*bad.json \(no kind\)"),
    ("no runtime", gone(CONTAINERD), "info container runtime: no configuration of containerd"),
    (
        "CRI-O",
        several(gone(CONTAINERD), text("run/crio/crio.sock", "")),
        "ok container runtime: CRI-O",
    ),
    ("containerd 1.7 by default", containerd("version = 2\n"), "warn container runtime: .* leaves CDI to the default"),
    ("containerd 1.7 on", containerd(f"version = 2\n{V2}enable_cdi = true\n"), "ok container runtime: .* has CDI on"),
    ("containerd 2 off", containerd(f"version = 3\n{V3}enable_cdi = false\n"), "fail container runtime: .*= false"),
    (
        "other CDI directories",
        containerd(f'version = 3\n{V3}cdi_spec_dirs = ["/var/cdi/static"]\n'),
        "fail container runtime: .* reads CDI specs from /var/cdi/static only",
    ),
    (
        "our CDI directory by its other name",
        containerd(f'version = 3\n{V3}cdi_spec_dirs = ["/run/cdi"]\n'),
        "ok container runtime: .* has CDI on",
    ),
    ("broken configuration", containerd("version = = 3"), "warn container runtime: .* can not be understood"),
    ("strange configuration", containerd("plugins = 3"), "warn container runtime: .* can not be understood"),
    *(
        (f"configuration with {what}", containerd(content), "warn container runtime: .* can not be understood")
        for what, content in (
            ("a text for the plugin", 'version = 2\n[plugins]\n"io.containerd.grpc.v1.cri" = "x"\n'),
            ("a text for the version", 'version = "2"\n'),
            ("a list for the version", "version = [2]\n"),
            ("a number for the directories", f"version = 3\n{V3}cdi_spec_dirs = 5\n"),
            ("numbers for directories", f"version = 3\n{V3}cdi_spec_dirs = [5]\n"),
            ("a number for the imports", "version = 3\nimports = 5\n"),
            ("a text for the imports", 'version = 3\nimports = "x"\n'),
            ("lists without end", "x = " + "[" * 20_000 + "]" * 20_000),
        )
    ),
    (
        "binary configuration",
        lambda node: node.write(CONTAINERD, b"\xff\xfe\0"),
        "warn container runtime: .* can not be understood: .* can not be read, or is no text",
    ),
    (
        "huge configuration",
        containerd("#" * (4 << 20) + "\n"),
        "warn container runtime: .* can not be understood: .* can not be read, or is no text",
    ),
    ("a pipe as configuration", pipe(CONTAINERD), "warn container runtime: .* can not be understood"),
    (
        "configuration imported from beside",
        several(
            containerd('version = 2\nimports = ["conf.d/*.toml"]\n'),
            text("etc/containerd/conf.d/cdi.toml", f"version = 2\n{V2}enable_cdi = true\n"),
        ),
        "ok container runtime: .* has CDI on",
    ),
    (
        "imported configuration",
        several(
            containerd(f'version = 2\nimports = ["/etc/containerd/conf.d/*.toml"]\n{V2}enable_cdi = false\n'),
            text("etc/containerd/conf.d/cdi.toml", f"version = 2\n{V2}enable_cdi = true\n"),
        ),
        "ok container runtime: .* has CDI on",
    ),
    (
        "k3s",
        several(gone(CONTAINERD), text("var/lib/rancher/k3s/agent/etc/containerd/config.toml", "version = 3\n")),
        "ok container runtime: /var/lib/rancher/k3s/agent/etc/containerd/config.toml has CDI on",
    ),
    ("no kubelet", gone(KUBELET), "info kubelet: /var/lib/kubelet is not there"),
    ("no registry", gone(f"{KUBELET}/plugins_registry"), "fail kubelet: /var/lib/kubelet/plugins_registry is not"),
    (
        "kubelet elsewhere",
        several(text("var/snap/kubelet/plugins_registry/x", ""), attribute("kubelet_root", Path("/var/snap/kubelet"))),
        "ok kubelet: /var/snap/kubelet",
    ),
    ("dead plugin", silent, "warn plugin socket: dra.sock: nobody answers"),
    ("dead registration", silent, "warn registration: gpu.fracgpu.dev-reg.sock: nobody answers"),
    ("no plugin", gone(f"{KUBELET}/plugins"), "info plugin socket: none in .*: the plugin does not run here"),
    ("no checkpoint", gone("var/lib/fracgpu"), "info checkpoint: none in /var/lib/fracgpu"),
    ("no stored interceptor", gone("var/lib/fracgpu"), "info stored interceptors: none"),
    ("broken checkpoint", text("var/lib/fracgpu/checkpoint.json", "{"), "fail checkpoint: .* is cut short or no JSON"),
    ("a pipe as checkpoint", pipe("var/lib/fracgpu/checkpoint.json"), "fail checkpoint: .* is no regular file"),
    ("a pipe as interceptor", pipe_in_store, "fail stored interceptors: .* is damaged"),
    ("damaged interceptor", damaged, "fail stored interceptors: /var/lib/fracgpu/lib/[0-9a-f]{64} is damaged"),
    ("half stored interceptor", half_stored, "fail stored interceptors: .* is damaged"),
    ("hostPID", attribute("in_pod", True), "ok host processes: visible"),
    (
        "no hostPID",
        several(attribute("in_pod", True), text("proc/2/comm", "sh\n")),
        "warn host processes: this pod sees only its own",
    ),
    (
        "device plugin",
        served("device-plugins/nvidia-gpu.sock"),
        "warn other owners: a device plugin of NVIDIA answers at nvidia-gpu.sock",
    ),
    (
        "dead device plugin",
        text(f"{KUBELET}/device-plugins/nvidia-gpu.sock", ""),
        "info other owners: a device plugin of NVIDIA was here: nvidia-gpu.sock, nobody answers",
    ),
    ("other device plugin", served("device-plugins/nic.sock"), "ok other owners: none to be seen"),
    (
        "NVIDIA's DRA driver",
        served("plugins/gpu.nvidia.com/dra.sock"),
        "warn other owners: NVIDIA's DRA driver gpu.nvidia.com answers",
    ),
    (
        "NVIDIA's DRA driver, dead",
        text(f"{KUBELET}/plugins/gpu.nvidia.com/dra.sock", ""),
        "info other owners: NVIDIA's DRA driver gpu.nvidia.com was here, nobody answers",
    ),
    ("ComputeDomains only", served("plugins/compute-domain.nvidia.com/dra.sock"), "ok other owners: none to be seen"),
    (
        "time-slicing",
        text(TIME_SLICING, "sharing:\n  timeSlicing:\n"),
        r"warn other owners: time-slicing is configured in pod uid \(config\)",
    ),
    (
        "time-slicing, as the kubelet lays it out",
        several(
            text(TIME_SLICING.replace("/any", "/..2025/any"), "sharing:\n  timeSlicing:\n"),
            linked(TIME_SLICING.replace("/any", "/..data"), "..2025"),
            linked(TIME_SLICING, "..data/any"),
        ),
        r"warn other owners: time-slicing is configured in pod uid \(config\)",
    ),
    ("another ConfigMap", text(TIME_SLICING, "sharing: {}\n"), "ok other owners: none to be seen"),
    ("HAMi preloaded", text("etc/ld.so.preload", "/usr/local/vgpu/libvgpu.so\n"), "warn other owners: HAMi's library"),
    ("HAMi installed", text("usr/local/vgpu/libvgpu.so", ""), "warn other owners: HAMi was installed here"),
    ("another preload", text("etc/ld.so.preload", "/usr/lib/libjemalloc.so\n"), "ok other owners: none to be seen"),
    ("MPS", text("proc/77/comm", "nvidia-cuda-mps\n"), "warn other owners: an MPS daemon runs"),
    ("MPS pipe", text("tmp/nvidia-mps/control", ""), "info other owners: an MPS daemon has left its pipe"),
    ("another process", text("proc/77/comm", "nvidia-persiste\n"), "ok other owners: none to be seen"),
]
