"""Which file a path leads to among mounts over mounts, and the kernel's own answer where namespaces are allowed."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.kubeletplugin.proof.mountinfo import FileIdentity, MountTable, parse_mountinfo

ROOT = "20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"


def table(*lines: str) -> MountTable:
    return parse_mountinfo("\n".join((*lines, "")).encode())


@pytest.mark.parametrize(
    ("lines", "path", "expected"),
    [
        ([ROOT], "/a/b", FileIdentity("8:1", "/a/b")),
        ([ROOT, "21 20 8:2 /x /a rw - ext4 d rw"], "/a/b", FileIdentity("8:2", "/x/b")),
        ([ROOT, "21 20 8:2 /x /a rw - ext4 d rw"], "/ab", FileIdentity("8:1", "/ab")),
        ([ROOT, "21 20 8:2 /f /a/b rw - ext4 d rw"], "/a/b", FileIdentity("8:2", "/f")),
        ([ROOT, "21 20 8:2 /f /a/b rw - ext4 d rw", "22 21 8:3 /g /a/b rw - ext4 d rw"], "/a/b", ("8:3", "/g")),
        # The order of the lines is not that of the mounts: ids are given again.
        ([ROOT, "22 30 8:3 /g /a/b rw - ext4 d rw", "30 20 8:2 /f /a/b rw - ext4 d rw"], "/a/b", ("8:3", "/g")),
        # A directory mounted later hides the file mount below it, although that is still listed.
        ([ROOT, "21 20 8:2 /f /a/b rw - ext4 d rw", "22 20 0:9 / /a rw - tmpfs t rw"], "/a/b", ("0:9", "/b")),
        ([ROOT, r"21 20 8:2 /with\040blank /a\011b rw - ext4 d rw"], "/a\tb", ("8:2", "/with blank")),
        ([ROOT, "21 20 0:40 /@/lib /a rw master:3 propagate_from:1 - btrfs d rw"], "/a/x", ("0:40", "/@/lib/x")),
        ([ROOT, "21 20 8:2 /gone//deleted /a rw - ext4 d rw"], "/a", ("8:2", "/gone//deleted")),
        (["20 20 0:2 / / rw - rootfs r rw"], "/a", ("0:2", "/a")),
        # In a chroot the mount that holds the root is not listed.
        (["21 20 8:2 /x /a rw - ext4 d rw"], "/a/b", ("8:2", "/x/b")),
        (["21 20 8:2 /x /a rw - ext4 d rw"], "/b", None),
        (["nonsense", "", ROOT, "1 2 3"], "/a", ("8:1", "/a")),
    ],
)
def test_a_path_leads_to_what_the_topmost_mount_shows(
    lines: list[str], path: str, expected: FileIdentity | tuple[str, str] | None
) -> None:
    wanted = FileIdentity(*expected) if isinstance(expected, tuple) else expected
    assert table(*lines).identity(path) == wanted


def test_what_is_mounted_is_known_wherever_it_is() -> None:
    sources = table(ROOT, "21 20 0:9 /page /moved/away/config ro - tmpfs t rw").sources
    assert sources == {FileIdentity("8:1", "/"), FileIdentity("0:9", "/page")}
    assert FileIdentity("0:9", "/page").deleted() == FileIdentity("0:9", "/page//deleted")


def test_a_table_of_ten_thousand_mounts_is_read_but_not_kept() -> None:
    lines = [f"{n + 30} 20 0:{n} / /m{n} rw - tmpfs t rw" for n in range(10_000)]
    content = "\n".join((ROOT, *lines)).encode()
    assert parse_mountinfo(content).identity("/m9999/f") == FileIdentity("0:9999", "/f")
    assert parse_mountinfo(content) is not parse_mountinfo(content)
    assert parse_mountinfo(ROOT.encode()) is parse_mountinfo(ROOT.encode())


@given(st.binary(max_size=400))
def test_no_text_makes_the_parser_fail(content: bytes) -> None:
    parse_mountinfo(content).identity("/usr/lib64/libcuda.so.1")


NAMES = st.sampled_from(["a", "b", "c"])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.lists(NAMES, max_size=3)), max_size=8))
def test_any_graph_of_mounts_has_an_end(edges: list[tuple[int, int, list[str]]]) -> None:
    lines = [f"{one} {parent} 8:{one} / /{'/'.join(names)} rw - ext4 d rw" for one, parent, names in edges]
    mounts = table(*lines)
    for path in ("/", "/a", "/a/b", "/a/b/c"):
        crossed = mounts.crossed(path)
        assert len(crossed) <= len(mounts.mounts) + 1
        assert all(path == mount.point or path.startswith(mount.point.rstrip("/") + "/") for mount in crossed)


def test_own_mounts_agree_with_the_kernel(tmp_path: Path) -> None:
    """Stacked file and directory mounts in a namespace: the file found is the file that is opened."""
    script = f"""
        set -e
        cd {tmp_path}
        mkdir -p one two lib
        echo first > one/f; echo second > two/f; touch lib/f
        mount --bind one/f lib/f
        mount --bind two/f lib/f
        mount --bind one two
        cat lib/f two/f
        echo ---
        stat -c %i lib/f two/f
        cat /proc/self/mountinfo
    """
    command = ["unshare", "-m" if os.geteuid() == 0 else "-Urm", "sh", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0 and not result.stdout:
        pytest.skip(f"this machine allows no mount namespaces: {result.stderr}")
    seen, _, rest = result.stdout.partition("---\n")
    assert seen == "second\nfirst\n"
    mounts = parse_mountinfo(rest.split("\n", 2)[2].encode())
    home = MountTable(parse_mountinfo(Path("/proc/self/mountinfo").read_bytes()).mounts)
    place = tmp_path.resolve()
    assert mounts.identity(f"{place}/lib/f") == home.identity(f"{place}/two/f")
    assert mounts.identity(f"{place}/two/f") == home.identity(f"{place}/one/f")
    assert home.identity(f"{place}/one/f") != home.identity(f"{place}/two/f")
