"""Where overlays go: pure planning, so every odd file system can be described."""

import pytest

from fracgpu.sim.node import mounts

DIRECTORIES = {"/", "/usr", "/usr/lib", "/usr/lib/x86_64-linux-gnu", "/etc"}
FILES = {"/usr/lib/x86_64-linux-gnu/libc.so.6"}


def plan(*targets: str) -> tuple[str, ...]:
    return mounts.overlay_directories(
        targets, is_dir=DIRECTORIES.__contains__, exists=lambda path: path in DIRECTORIES | FILES
    )


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ((), ()),
        (("/run/fracgpu/allocations/a/config",), ()),
        (("/usr/lib/x86_64-linux-gnu/libc.so.6",), ()),
        (("/usr/lib/x86_64-linux-gnu/libcuda.so.1",), ("/usr/lib/x86_64-linux-gnu",)),
        (("/usr/lib64/libcuda.so.1", "/usr/lib/x86_64-linux-gnu/libcuda.so.1"), ("/usr",)),
        (("/etc/a/b/c", "/usr/lib/new"), ("/etc", "/usr/lib")),
        (("/usr/libx/file", "/usr/lib/new"), ("/usr",)),
    ],
    ids=["nothing", "below run", "exists", "missing file", "outermost wins", "two", "prefix of a name is no parent"],
)
def test_overlays_cover_missing_mount_points(targets: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert plan(*targets) == expected


def test_the_root_itself_cannot_be_overlaid() -> None:
    with pytest.raises(mounts.MountPointUnreachable, match=r"/lib64/libcuda\.so\.1"):
        plan("/lib64/libcuda.so.1")


def test_mounts_below_a_directory_are_found_parents_first() -> None:
    mountinfo = "\n".join(
        f"{number} 1 8:1 / {point} rw - ext4 /dev/sda rw"
        for number, point in enumerate(["/usr/a\\040b/c", "/usr/a\\040b", "/usr", "/usr2", "/"])
    )
    assert mounts.mounts_below(mountinfo, "/usr") == ("/usr/a b", "/usr/a b/c")


@pytest.mark.parametrize(
    ("path", "escaped"),
    [("/usr/lib", "/usr/lib"), ("/a:b", "/a\\:b"), ("/a,b", "/a\\,b"), ("/a\\b", "/a\\\\b")],
)
def test_overlay_options_are_escaped(path: str, escaped: str) -> None:
    assert mounts.escape_overlay_path(path) == escaped


def test_is_below_compares_components() -> None:
    assert mounts.is_below("/run", "/run")
    assert mounts.is_below("/run/x", "/run")
    assert not mounts.is_below("/runner", "/run")
