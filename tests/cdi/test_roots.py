"""Where a host keeps its driver: the layouts of the systems we know, and what decides between two of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fracgpu.cdi.discovery import discover_driver
from fracgpu.cdi.errors import DriverAbsent, DriverAmbiguous, DriverFilesMissing, DriverUnsupported, ElfInvalid
from fracgpu.cdi.roots import find_driver_root, kernel_module_version
from tests.cdi.conftest import elf_library

Tree = dict[str, bytes | str]
CUDA, NVML = elf_library("libcuda.so.1"), elf_library("libnvidia-ml.so.1")
Populate = Callable[[Tree], Path]
VERSION, OLD = "580.65.06", "570.133.20"
DRIVER_CONTAINER = "run/nvidia/driver/usr/lib64"


@pytest.fixture
def no_module(tmp_path: Path) -> Path:
    """A /proc without a kernel module, whatever this machine has."""
    return tmp_path / "proc"


def module(proc: Path, version: str) -> Path:
    path = proc / "driver" / "nvidia" / "version"
    path.parent.mkdir(parents=True)
    path.write_text(
        f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Tue Apr 1 12:00:00 UTC 2025\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
    )
    return proc


def pair(directory: str, version: str = VERSION) -> Tree:
    return {
        f"{directory}/libcuda.so.{version}": CUDA,
        f"{directory}/libcuda.so.1": f"libcuda.so.{version}",
        f"{directory}/libnvidia-ml.so.{version}": NVML,
        f"{directory}/libnvidia-ml.so.1": f"libnvidia-ml.so.{version}",
    }


LAYOUTS = [
    ("debian", "usr/lib/x86_64-linux-gnu", "/"),
    ("debian-arm", "usr/lib/aarch64-linux-gnu", "/"),
    ("red-hat-suse", "usr/lib64", "/"),
    ("arch", "usr/lib", "/"),
    ("nixos", "run/opengl-driver/lib", "/"),
    ("talos", "usr/local/glibc/usr/lib", "/"),
    ("bottlerocket", "usr/lib/nvidia/tesla", "/"),
    ("driver-container", DRIVER_CONTAINER, "/run/nvidia/driver"),
    ("installers", "usr/local/nvidia/lib64", "/usr/local/nvidia"),
    ("gke", "home/kubernetes/bin/nvidia/lib64", "/home/kubernetes/bin/nvidia"),
    ("cos", "var/lib/nvidia/lib64", "/var/lib/nvidia"),
    ("flatcar", "opt/nvidia/current/usr/lib64", "/opt/nvidia/current"),
]


@pytest.mark.parametrize(("directory", "root"), [case[1:] for case in LAYOUTS], ids=[case[0] for case in LAYOUTS])
def test_the_driver_of_every_known_system_is_found(
    driver_root: Populate, no_module: Path, directory: str, root: str
) -> None:
    host = driver_root(pair(directory))
    found = find_driver_root(host, proc=no_module)
    assert found is not None
    assert (found.on_host, found.version) == (Path(root), VERSION)
    assert found.path == host / root.lstrip("/")
    assert discover_driver(found.path).version == VERSION


def test_a_link_to_the_root_is_named_as_the_runtime_finds_it(driver_root: Populate, no_module: Path) -> None:
    host = driver_root({**pair("opt/nvidia/580.65.06/usr/lib64"), "opt/nvidia/current": "/opt/nvidia/580.65.06"})
    found = find_driver_root(host, proc=no_module)
    assert found is not None
    assert found.on_host == Path("/opt/nvidia/580.65.06")


def test_nothing_is_none(driver_root: Populate, no_module: Path) -> None:
    assert find_driver_root(driver_root({"usr/lib64/libc.so.6": b""}), proc=no_module) is None


def test_the_driver_that_the_kernel_module_is_of_wins(driver_root: Populate, tmp_path: Path) -> None:
    host = driver_root({**pair(DRIVER_CONTAINER, OLD), **pair("usr/lib64")})
    for version, root in ((VERSION, "/"), (OLD, "/run/nvidia/driver"), ("999.1", "/run/nvidia/driver")):
        found = find_driver_root(host, proc=module(tmp_path / version, version))
        assert found is not None
        assert found.on_host == Path(root)


def test_without_a_module_the_driver_container_wins(driver_root: Populate, no_module: Path) -> None:
    found = find_driver_root(driver_root({**pair("usr/lib64"), **pair(DRIVER_CONTAINER)}), proc=no_module)
    assert found is not None
    assert found.on_host == Path("/run/nvidia/driver")


def test_a_driver_container_at_work_is_passed_over(driver_root: Populate, no_module: Path) -> None:
    half: Tree = {f"{DRIVER_CONTAINER}/libcuda.so.{OLD}": CUDA}
    found = find_driver_root(driver_root({**half, **pair("usr/lib64")}), proc=no_module)
    assert found is not None
    assert found.on_host == Path("/")


def test_a_link_to_an_impossible_name_is_a_dangling_one(driver_root: Populate, no_module: Path) -> None:
    absurd: Tree = {f"{DRIVER_CONTAINER}/libcuda.so.1": "x" * 300}
    found = find_driver_root(driver_root({**absurd, **pair("usr/lib64")}), proc=no_module)
    assert found is not None
    assert found.on_host == Path("/")


@pytest.mark.parametrize(
    ("tree", "error", "text"),
    [
        (
            {f"{DRIVER_CONTAINER}/libcuda.so.{VERSION}": CUDA},
            DriverFilesMissing,
            f"run/nvidia/driver: libcuda.so.{VERSION} is there but libnvidia-ml.so.{VERSION} is not; install",
        ),
        (
            {f"usr/lib64/libcuda.so.{VERSION}": b"", f"usr/lib64/libcuda.so.{OLD}": b""},
            DriverAmbiguous,
            "several drivers are installed",
        ),
        (
            {"usr/lib/wsl/lib/libcuda.so.1": CUDA, "usr/lib/wsl/lib/libnvidia-ml.so.1": NVML},
            DriverUnsupported,
            "WSL is not supported",
        ),
        ({**pair("usr/lib64"), f"usr/lib64/libnvidia-nvvm.so.{VERSION}": b"\0"}, ElfInvalid, "libnvidia-nvvm"),
    ],
    ids=["no-nvml", "two-versions", "wsl", "broken-library"],
)
def test_a_driver_that_is_not_complete_is_named(
    driver_root: Populate, no_module: Path, tree: Tree, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        find_driver_root(driver_root(tree), proc=no_module)


def test_a_root_without_anything_is_absent_and_not_incomplete(driver_root: Populate) -> None:
    with pytest.raises(DriverAbsent):
        discover_driver(driver_root({"usr/lib64/libc.so.6": b""}))


def test_a_candidate_that_may_not_be_read_is_passed_over(
    driver_root: Populate, no_module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = driver_root({**pair(DRIVER_CONTAINER), **pair("usr/lib64")})

    def refuse(root: Path, *, trail: set[Path] | None) -> object:
        if root.name == "driver":
            raise PermissionError(13, "Permission denied")
        return discover_driver(root, trail=trail)

    monkeypatch.setattr("fracgpu.cdi.roots.discover_driver", refuse)
    found = find_driver_root(host, proc=no_module)
    assert found is not None
    assert found.on_host == Path("/")


DEVICES = [
    ("host", {"dev/nvidiactl": b""}, "/"),
    ("driver container only", {"run/nvidia/driver/dev/nvidiactl": b""}, "/run/nvidia/driver"),
    ("both", {"dev/nvidiactl": b"", "run/nvidia/driver/dev/nvidiactl": b""}, "/"),
    ("neither", {}, "/"),
]


@pytest.mark.parametrize(("nodes", "dev_root"), [case[1:] for case in DEVICES], ids=[case[0] for case in DEVICES])
def test_device_nodes_are_the_hosts_wherever_it_has_them(
    driver_root: Populate, no_module: Path, nodes: Tree, dev_root: str
) -> None:
    host = driver_root({**pair(DRIVER_CONTAINER), **nodes})
    found = find_driver_root(host, proc=no_module)
    assert found is not None
    assert found.dev_root_on_host == Path(dev_root)
    assert found.dev_root == host / dev_root.lstrip("/")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n", "535.183.01"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@x)\n"
            "GCC version:  gcc version 12.3.0\n",
            VERSION,
        ),
        ("GCC version:  gcc version 123.4.5 (x)\n", None),
        ("", None),
    ],
    ids=["closed", "open", "no-module-line", "empty"],
)
def test_the_module_says_its_version(tmp_path: Path, text: str, version: str | None) -> None:
    path = tmp_path / "driver" / "nvidia" / "version"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert kernel_module_version(tmp_path) == version


def test_no_module_is_none(tmp_path: Path) -> None:
    assert kernel_module_version(tmp_path) is None
