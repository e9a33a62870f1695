"""Does anybody else hand out the same GPUs?

Two owners that do not know of each other give the same memory away twice. Ours enforces its part and can not make the
other one count.
"""

from __future__ import annotations

from collections.abc import Iterator

from fracgpu.cli.doctor.finding import Finding, info, ok, warn
from fracgpu.cli.doctor.host import Host

_CHECK = "other owners"
_DEVICE_PLUGIN_SOCKETS = "nvidia*.sock"
_HAMI_LIBRARY = "libvgpu.so"
_HAMI_DIRECTORY = "/usr/local/vgpu"
_MPS_PROCESSES = ("nvidia-cuda-mps-control", "nvidia-cuda-mps-server")
# The pipe directories of the daemon's own default, of NVIDIA's device plugin and of its DRA driver.
_MPS_PIPES = ("/tmp/nvidia-mps/control", "/run/nvidia/mps/nvidia.com/gpu/pipe/control", "/run/nvidia/mps/pipe/control")  # noqa: S108
_NVIDIA_DRA_PLUGIN = "gpu.nvidia.com"
# comm of proc(5) has 15 characters.
_COMM_LENGTH = 15


def check_other_owners(host: Host) -> Iterator[Finding]:
    """Everybody who is known to hand out NVIDIA GPUs; one finding each, or that there is nobody."""
    found = [
        *_device_plugins(host),
        *_nvidia_dra_driver(host),
        *_time_slicing(host),
        *_hami(host),
        *_mps(host),
    ]
    yield from found or [ok(_CHECK, "none to be seen")]


def _device_plugins(host: Host) -> Iterator[Finding]:
    for path in host.entries(host.kubelet_root / "device-plugins", _DEVICE_PLUGIN_SOCKETS):
        if host.answers(path):
            remedy = "keep it off this node (its DaemonSet's nodeSelector): both would give away all of each GPU"
            yield warn(_CHECK, f"a device plugin of NVIDIA answers at {path.name}", remedy)
        else:
            yield info(_CHECK, f"a device plugin of NVIDIA was here: {path.name}, nobody answers")


def _nvidia_dra_driver(host: Host) -> Iterator[Finding]:
    sockets = host.entries(host.kubelet_root / "plugins" / _NVIDIA_DRA_PLUGIN, "*.sock")
    if any(host.answers(path) for path in sockets):
        remedy = "let it serve ComputeDomains only (resources.gpus.enabled=false), or keep it off this node"
        yield warn(_CHECK, f"NVIDIA's DRA driver {_NVIDIA_DRA_PLUGIN} answers", remedy)
    elif sockets:
        yield info(_CHECK, f"NVIDIA's DRA driver {_NVIDIA_DRA_PLUGIN} was here, nobody answers")


def _time_slicing(host: Host) -> Iterator[Finding]:
    """NVIDIA's device plugin is told to by a ConfigMap, which the kubelet keeps below the pod's directory."""
    for pod in host.entries(host.kubelet_root / "pods"):
        volumes = host.kubelet_root / "pods" / pod.name / "volumes" / "kubernetes.io~configmap"
        for volume in host.entries(volumes):
            directory = volumes / volume.name
            if any("timeSlicing:" in (host.text(directory / path.name) or "") for path in host.entries(directory)):
                remedy = "take time-slicing off the GPUs that are shared here: it counts no memory at all"
                yield warn(_CHECK, f"time-slicing is configured in pod {pod.name} ({volume.name})", remedy)


def _hami(host: Host) -> Iterator[Finding]:
    if _HAMI_LIBRARY in (host.text("/etc/ld.so.preload") or ""):
        remedy = f"remove {_HAMI_LIBRARY} from it: it overrides dlsym in every process and would count everything twice"
        yield warn(_CHECK, "HAMi's library is in /etc/ld.so.preload of this host", remedy)
    if host.path(_HAMI_DIRECTORY) is not None:
        yield warn(_CHECK, f"HAMi was installed here ({_HAMI_DIRECTORY})", "keep its device plugin off this node")


def _mps(host: Host) -> Iterator[Finding]:
    remedy = "stop it (echo quit | nvidia-cuda-mps-control): its server allocates in the place of its clients"
    wanted = {name[:_COMM_LENGTH] for name in _MPS_PROCESSES}
    if any(name in wanted for name in host.process_names()):
        yield warn(_CHECK, "an MPS daemon runs", remedy)
    elif any(host.path(pipe) is not None for pipe in _MPS_PIPES):
        yield info(_CHECK, "an MPS daemon has left its pipe behind, or runs where this process can not see it", remedy)
