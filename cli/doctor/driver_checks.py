"""Is there a driver, is it whole, do its parts fit, and does it answer?"""

from __future__ import annotations

from collections.abc import Iterator

from fracgpu.cdi.discovery import discover_driver, list_device_nodes
from fracgpu.cdi.errors import DriverFilesMissing, ElfInvalid
from fracgpu.cdi.roots import find_driver_root, kernel_module_version
from fracgpu.cli.doctor.finding import Finding, fail, failed, info, ok, warn
from fracgpu.cli.doctor.host import Host
from fracgpu.cli.doctor.nvml_facts import GpuFacts, NvmlFacts
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.quantity import format_mib

# What programs miss most when it is not there.
_COMPILER = "libnvidia-ptxjitcompiler"
_NEEDED_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm")
_NODE_REMEDY = "load the kernel modules and make the nodes: nvidia-modprobe -c0 -u"


def check_driver(host: Host) -> Iterator[Finding]:
    """The driver's place and files."""
    try:
        root = find_driver_root(host.root, proc=host.proc)
        if root is None:
            yield fail("driver", "no NVIDIA driver in any usual place", "install it, or see docs/user/doctor.md")
            return
        files = discover_driver(root.path)
    except (DriverFilesMissing, ElfInvalid) as error:
        yield failed("driver", error)
        return
    yield ok("driver", f"{root.version} at {root.on_host}: libcuda, libnvidia-ml, {len(files.libraries)} more")
    if not any(library.path.name.startswith(_COMPILER) for library in files.libraries):
        yield warn(
            "driver",
            f"{_COMPILER} is missing",
            "install all of the driver's compute libraries: programs built for other GPUs will not start",
        )
    if files.nvidia_smi is None:
        yield info("driver", "nvidia-smi is missing; containers will not have it either")


def check_kernel_module(host: Host) -> Iterator[Finding]:
    """The loaded module must be of the libraries' version: NVIDIA's driver refuses any other pair."""
    version = kernel_module_version(host.proc)
    driver = host.driver()
    if version is None:
        yield fail("kernel module", "nvidia is not loaded", "modprobe nvidia; without an NVIDIA GPU it can not be")
    elif driver is not None and driver.version != version:
        what = f"{version} is loaded, the libraries are {driver.version}"
        yield fail("kernel module", what, "reboot, or unload and load the module: an upgrade is half done")
    else:
        yield ok("kernel module", version)


def check_device_nodes(host: Host) -> Iterator[Finding]:
    """The nodes through which programs reach the GPUs."""
    driver = host.driver()
    dev_root = host.root if driver is None else driver.dev_root
    present = list_device_nodes(dev_root)
    missing = [node for node in _NEEDED_NODES if node not in present]
    gpus = sorted(node for node in present if node.removeprefix("/dev/nvidia").isdecimal())
    if not gpus:
        missing.append("/dev/nvidia<number>")
    if missing:
        yield fail("device nodes", f"{', '.join(missing)} missing", _NODE_REMEDY)
    else:
        yield ok("device nodes", ", ".join((*gpus, *_NEEDED_NODES)))


def check_nvml(host: Host) -> Iterator[Finding]:
    """NVML answers, and what it says about each GPU."""
    driver = host.driver()
    if driver is None:
        yield info("NVML", "not asked: there is no complete driver")
        return
    try:
        facts: NvmlFacts = host.ask_nvml(discover_driver(driver.path).nvml)
    except FracgpuError as error:
        yield failed("NVML", error)
        return
    if not facts.gpus:
        yield fail("NVML", "answers, and shows no GPU", "check that the GPUs are visible on the PCI bus (lspci)")
    for gpu in facts.gpus:
        yield _gpu(gpu)


def _gpu(facts: GpuFacts) -> Finding:
    gpu = facts.gpu
    check = f"GPU {gpu.index}"
    if not gpu.healthy:
        return fail(check, f"{gpu.uuid} does not answer", "look for Xid errors in the kernel log; reset it or reboot")
    what = f"{gpu.product_name}, {format_mib(gpu.physical_memory_bytes)}, {gpu.uuid}"
    if facts.mig:
        return warn(check, f"{what}: MIG is on", "nvidia-smi -mig 0: a GPU is divided by MIG or shared here, not both")
    if facts.vgpu:
        return info(check, f"{what}: vGPU {facts.vgpu}", "shares are of what this machine sees as the card")
    return ok(check, what)
