from collections.abc import Callable
from pathlib import Path

import pytest

from fracgpu.cdi.discovery import DriverFiles, discover_driver, gpu_device_nodes, list_device_nodes
from fracgpu.cdi.errors import DriverFilesMissing, ElfInvalid
from fracgpu.cdi.rooted import resolve_in_root
from tests.cdi.conftest import elf_library

CUDA, NVML = elf_library("libcuda.so.1"), elf_library("libnvidia-ml.so.1")
Populate = Callable[[dict[str, bytes | str]], Path]
Elf = Callable[[str | None], bytes]
VERSION = "580.65.06"


def pair(directory: str, version: str = VERSION) -> dict[str, bytes | str]:
    return {
        f"{directory}/libcuda.so.{version}": CUDA,
        f"{directory}/libcuda.so.1": f"libcuda.so.{version}",
        f"{directory}/libnvidia-ml.so.{version}": NVML,
        f"{directory}/libnvidia-ml.so.1": f"libnvidia-ml.so.{version}",
    }


def relative(files: DriverFiles, path: Path | None) -> str | None:
    return None if path is None else str(path.relative_to(files.root))


@pytest.mark.parametrize(
    "directory",
    ["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib", "lib64", "lib/x86_64-linux-gnu"],
)
def test_the_driver_is_found_in_every_library_directory(driver_root: Populate, directory: str) -> None:
    found = discover_driver(driver_root(pair(directory)))
    assert found.version == VERSION
    assert relative(found, found.cuda) == f"{directory}/libcuda.so.{VERSION}"
    assert relative(found, found.nvml) == f"{directory}/libnvidia-ml.so.{VERSION}"
    assert (found.libraries, found.nvidia_smi) == ((), None)


def test_optional_libraries_have_their_soname_and_their_versioned_name(driver_root: Populate, elf: Elf) -> None:
    directory = "usr/lib64"
    root = driver_root(
        {
            **pair(directory),
            f"{directory}/libnvidia-nvvm.so.{VERSION}": elf("libnvidia-nvvm.so.4"),
            f"{directory}/libnvidia-ptxjitcompiler.so.{VERSION}": elf("libnvidia-ptxjitcompiler.so.1"),
            f"{directory}/libnvidia-gpucomp.so.{VERSION}": elf(f"libnvidia-gpucomp.so.{VERSION}"),
            f"{directory}/libnvidia-cfg.so.{VERSION}": elf(None),
            f"{directory}/libnvidia-nvvm.so.570.1.1": elf("libnvidia-nvvm.so.4"),
            f"{directory}/libGLX_nvidia.so.{VERSION}": elf("libGLX_nvidia.so.0"),
            "usr/bin/nvidia-smi": b"smi",
        }
    )
    found = discover_driver(root)
    assert [(relative(found, library.path), library.names) for library in found.libraries] == [
        (f"{directory}/libnvidia-cfg.so.{VERSION}", (f"libnvidia-cfg.so.{VERSION}",)),
        (f"{directory}/libnvidia-gpucomp.so.{VERSION}", (f"libnvidia-gpucomp.so.{VERSION}",)),
        (f"{directory}/libnvidia-nvvm.so.{VERSION}", ("libnvidia-nvvm.so.4", f"libnvidia-nvvm.so.{VERSION}")),
        (
            f"{directory}/libnvidia-ptxjitcompiler.so.{VERSION}",
            ("libnvidia-ptxjitcompiler.so.1", f"libnvidia-ptxjitcompiler.so.{VERSION}"),
        ),
    ]
    assert relative(found, found.nvidia_smi) == "usr/bin/nvidia-smi"


def test_a_broken_optional_library_is_an_error_with_its_path(driver_root: Populate) -> None:
    root = driver_root({**pair("usr/lib64"), f"usr/lib64/libnvidia-nvvm.so.{VERSION}": b"\0"})
    with pytest.raises(ElfInvalid, match=rf"library .*/usr/lib64/libnvidia-nvvm\.so\.{VERSION}: "):
        discover_driver(root)


def test_links_are_followed_inside_the_root(driver_root: Populate) -> None:
    """Debian: SONAME -> /etc/alternatives (absolute) -> nvidia/current -> the file."""
    multiarch = "usr/lib/x86_64-linux-gnu"
    root = driver_root(
        {
            f"{multiarch}/libcuda.so.1": "/etc/alternatives/glx--libcuda.so.1",
            "etc/alternatives/glx--libcuda.so.1": f"/{multiarch}/nvidia/current/libcuda.so.1",
            **pair(f"{multiarch}/nvidia/current"),
            "lib": "usr/lib",
        }
    )
    found = discover_driver(root)
    assert relative(found, found.cuda) == f"{multiarch}/nvidia/current/libcuda.so.{VERSION}"
    assert relative(found, found.nvml) == f"{multiarch}/nvidia/current/libnvidia-ml.so.{VERSION}"


def test_the_version_in_use_wins_over_left_over_files(driver_root: Populate) -> None:
    root = driver_root({**pair("usr/lib64"), "usr/lib64/libcuda.so.570.1.1": b"old"})
    assert discover_driver(root).version == VERSION


def test_one_version_without_links_is_enough(driver_root: Populate) -> None:
    files = {name: content for name, content in pair("usr/lib64").items() if isinstance(content, bytes)}
    assert discover_driver(driver_root(dict(files))).version == VERSION


def test_without_links_the_64_bit_directory_wins_over_the_other(driver_root: Populate) -> None:
    """Red Hat's layout with 32-bit compatibility libraries: same names, other machine."""
    both = {**pair("usr/lib"), **pair("usr/lib64")}
    files = {name: content for name, content in both.items() if isinstance(content, bytes)}
    found = discover_driver(driver_root(dict(files)))
    assert relative(found, found.cuda) == f"usr/lib64/libcuda.so.{VERSION}"
    assert relative(found, found.nvml) == f"usr/lib64/libnvidia-ml.so.{VERSION}"


def test_32_bit_libraries_are_passed_over_wherever_a_link_names_them(driver_root: Populate, elf: Elf) -> None:
    """Only their directory has seen ldconfig, and one library is there in its 32-bit build alone."""
    small = bytearray(elf("libcuda.so.1"))
    small[4] = 1
    root = driver_root(
        {
            **{
                f"usr/lib/{stem}.so.{VERSION}": bytes(small)
                for stem in ("libcuda", "libnvidia-ml", "libnvidia-allocator")
            },
            "usr/lib/libcuda.so.1": f"libcuda.so.{VERSION}",
            f"usr/lib64/libcuda.so.{VERSION}": CUDA,
            f"usr/lib64/libnvidia-ml.so.{VERSION}": NVML,
        }
    )
    found = discover_driver(root)
    assert relative(found, found.cuda) == f"usr/lib64/libcuda.so.{VERSION}"
    assert relative(found, found.nvml) == f"usr/lib64/libnvidia-ml.so.{VERSION}"
    assert found.libraries == ()


@pytest.mark.parametrize("stem", ["libcuda", "libnvidia-ml"])
@pytest.mark.parametrize("content", [b"", CUDA[:100]], ids=["empty", "cut short"])
def test_a_library_that_is_still_being_written_is_no_driver(driver_root: Populate, stem: str, content: bytes) -> None:
    root = driver_root({**pair("usr/lib64"), f"usr/lib64/{stem}.so.{VERSION}": content})
    with pytest.raises(ElfInvalid, match=rf"library .*/usr/lib64/{stem}\.so\.{VERSION}: "):
        discover_driver(root)


MISSING = [
    ("nothing", {"usr/lib64/libc.so.6": b""}, "no libcuda.so.<version> in any library directory; install the NVIDIA"),
    (
        "dangling-link",
        {"usr/lib64/libcuda.so.1": f"libcuda.so.{VERSION}"},
        "no libcuda.so.<version> in any library directory",
    ),
    (
        "link-loop",
        {"usr/lib64/libcuda.so.1": "libcuda.so.2", "usr/lib64/libcuda.so.2": "libcuda.so.1"},
        "no libcuda.so.<version> in any library directory",
    ),
    (
        "no-nvml",
        {f"usr/lib64/libcuda.so.{VERSION}": CUDA},
        f"libcuda.so.{VERSION} is there but libnvidia-ml.so.{VERSION} is not; install the driver's utility libraries",
    ),
    (
        "other-nvml",
        {f"usr/lib64/libcuda.so.{VERSION}": CUDA, "usr/lib64/libnvidia-ml.so.570.1.1": NVML},
        f"libnvidia-ml.so.{VERSION} is not",
    ),
    (
        "two-versions",
        {f"usr/lib64/libcuda.so.{VERSION}": b"", "usr/lib64/libcuda.so.570.1.1": b""},
        f"it is not clear which one is in use: libcuda.so.570.1.1, libcuda.so.{VERSION}; remove the old driver",
    ),
]


@pytest.mark.parametrize(("files", "text"), [case[1:] for case in MISSING], ids=[case[0] for case in MISSING])
def test_an_unusable_root_is_named_with_the_remedy(
    driver_root: Populate, files: dict[str, bytes | str], text: str
) -> None:
    root = driver_root(files)
    with pytest.raises(DriverFilesMissing) as missing:
        discover_driver(root)
    assert str(missing.value).startswith(f"driver root {root}: ")
    assert text in str(missing.value)


def test_a_root_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DriverFilesMissing, match="correct --driver-root"):
        discover_driver(tmp_path / "none")


def test_links_can_not_leave_the_root(driver_root: Populate, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"host")
    root = driver_root({"a/link": "../../../outside", "outside": b"inside", "loop": "loop", "abs": "/outside"})
    assert resolve_in_root(root, "/a/link") == root / "outside"
    assert resolve_in_root(root, "abs") == root / "outside"
    assert resolve_in_root(root, "loop") is None
    assert resolve_in_root(root, "a/none") is None


def test_device_nodes_are_listed_as_a_container_sees_them(driver_root: Populate) -> None:
    root = driver_root({"dev/nvidia0": b"", "dev/nvidiactl": b"", "dev/nvidia-uvm": b"", "dev/null": b""})
    present = list_device_nodes(root)
    assert present == {"/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"}
    assert gpu_device_nodes(present, 0) == ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm")
    assert list_device_nodes(root / "none") == frozenset()


def test_uvm_tools_are_added_where_the_driver_has_them() -> None:
    present = frozenset({"/dev/nvidia3", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"})
    assert gpu_device_nodes(present, 3)[-1] == "/dev/nvidia-uvm-tools"


@pytest.mark.parametrize("absent", ["/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm"])
def test_a_missing_device_node_is_named(absent: str) -> None:
    present = frozenset({"/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm"}) - {absent}
    with pytest.raises(DriverFilesMissing, match=f"^device node {absent}: is not on this node; load the nvidia"):
        gpu_device_nodes(present, 1)
