"""Does a path lead to our interceptor: by mounts alone, and with the file system's second opinion."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from fracgpu.kubeletplugin.proof.mountinfo import FileIdentity, MountTable, parse_mountinfo
from fracgpu.kubeletplugin.proof.verdict_mounts import Replaced, first_forged, first_replaced

DIRECTORIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64")
CUDA, NVML = FileIdentity("8:1", "/lib/d1/libcuda.so.1"), FileIdentity("8:1", "/lib/d1/libnvidia-ml.so.1")
OLDER = FileIdentity("8:1", "/lib/d0/libcuda.so.1")
PRELOADED = {
    "ld.so.preload": "/etc/ld.so.preload",
    "libfracgpu-preload.so": "/run/fracgpu/preload/libcuda.so.1",
    "libfracgpu-preload-alias.so": "/run/fracgpu/preload/libcuda.so",
}
STORED = {
    "libcuda.so.1": frozenset({CUDA, OLDER}),
    "libnvidia-ml.so.1": frozenset({NVML}),
    **{name: frozenset({FileIdentity("8:1", f"/lib/d1/{name}")}) for name in PRELOADED},
}
ROOT = "1 0 0:30 / / rw - overlay overlay rw"


@dataclass
class View:
    links: dict[str, str] = field(default_factory=dict)
    stored: set[tuple[str, str]] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    listed: tuple[str, ...] = ()

    def resolve(self, path: str, may_ask: Callable[[str], bool]) -> str:
        if not may_ask(path):
            return path
        self.asked.append(path)
        return self.links.get(path, path)

    def is_stored(self, path: str, soname: str) -> bool:
        self.asked.append(path)
        return (path, soname) in self.stored

    def names(self, directory: str, *, most: int) -> tuple[str, ...]:
        self.asked.append(directory)
        return self.listed[:most]


def ours(skip: Callable[[str], bool] = lambda _path: False) -> list[str]:
    lines: list[str] = []
    for directory in DIRECTORIES:
        for identity, stem in ((CUDA, "libcuda.so"), (NVML, "libnvidia-ml.so")):
            for name in (f"{stem}.1", stem, f"{stem}.580.65.06"):
                if not skip(f"{directory}/{name}"):
                    lines.append(f"{100 + len(lines)} 1 8:1 {identity.root} {directory}/{name} ro - ext4 d rw")
    return lines


def check(lines: list[str], view: View | None = None) -> Replaced | None:
    mounts: MountTable = parse_mountinfo("\n".join([ROOT, *lines]).encode())
    return first_replaced(mounts, stored=STORED, directories=DIRECTORIES, view=view or View())


def test_all_in_place_needs_no_second_opinion() -> None:
    view = View()
    assert check(ours(), view) is None
    assert view.asked == []


def test_the_interceptor_of_another_claim_is_ours_too() -> None:
    line = f"500 1 8:1 {OLDER.root} /usr/lib64/libcuda.so.1 ro - ext4 d rw"
    assert check([*ours(lambda path: path == "/usr/lib64/libcuda.so.1"), line]) is None


@pytest.mark.parametrize("name", ["libcuda.so.1", "libcuda.so", "libcuda.so.580.65.06", "libnvidia-ml.so.1"])
@pytest.mark.parametrize("directory", DIRECTORIES)
def test_a_mount_over_any_name_is_found(directory: str, name: str) -> None:
    path = f"{directory}/{name}"
    (below,) = [line.split(" ")[0] for line in ours() if line.split(" ")[4] == path]
    found = check([*ours(), f"600 {below} 8:2 /real.so {path} ro - xfs d rw"])
    assert found == Replaced(path, "/real.so of device 8:2 (xfs)")


def test_the_shim_of_the_other_library_is_not_the_right_one() -> None:
    path = "/usr/lib64/libcuda.so.1"
    line = f"500 1 8:1 {NVML.root} {path} ro - ext4 d rw"
    found = check([*ours(lambda one: one == path), line])
    assert found is not None
    assert found.path == path


def test_the_same_name_on_another_device_is_another_file() -> None:
    path = "/usr/lib64/libcuda.so.1"
    found = check([*ours(lambda one: one == path), f"500 1 8:9 {CUDA.root} {path} ro - ext4 d rw"])
    assert found == Replaced(path, f"{CUDA.root} of device 8:9 (ext4)")


def test_a_directory_over_the_files_is_named() -> None:
    found = check([*ours(), "600 1 0:77 / /usr/lib64 rw - tmpfs t rw"])
    assert found == Replaced("/usr/lib64/libcuda.so.1", "/libcuda.so.1 of device 0:77 (tmpfs) mounted at /usr/lib64")


def test_without_a_mount_the_image_decides() -> None:
    found = check(ours(lambda path: path == "/usr/lib64/libcuda.so"))
    assert found == Replaced("/usr/lib64/libcuda.so", "the image's own file, or none")


def test_a_versioned_name_that_is_not_mounted_is_not_missed() -> None:
    assert check(ours(lambda path: path.endswith("06"))) is None


def test_a_symbolic_link_of_the_image_is_followed() -> None:
    """On some distributions /usr/lib64 is a link: the runtime mounts where it leads."""
    lines = [line.replace("/usr/lib64/", "/usr/lib/") for line in ours()]
    names = [f"{stem}{end}" for stem in ("libcuda.so", "libnvidia-ml.so") for end in (".1", "")]
    view = View(links={f"/usr/lib64/{name}": f"/usr/lib/{name}" for name in names})
    assert check(lines, view) is None
    assert check(lines) is not None


def test_the_same_file_through_another_mount_is_known_by_its_inode() -> None:
    path = "/usr/lib64/libcuda.so.1"
    line = f"500 1 0:99 /seen/otherwise {path} ro - ext4 d rw"
    lines = [*ours(lambda one: one == path), line]
    assert check(lines, View(stored={(path, "libcuda.so.1")})) is None
    assert check(lines, View(stored={(path, "libnvidia-ml.so.1")})) is not None


@pytest.mark.parametrize("kind", ["fuse", "fuse.sshfs", "fuseblk", "nfs4", "9p", "autofs"])
def test_file_systems_that_may_block_are_never_asked(kind: str) -> None:
    path = "/usr/lib64/libcuda.so.1"
    view = View(stored={(path, "libcuda.so.1")})
    found = check([*ours(lambda one: one == path), f"500 1 0:99 / {path} ro - {kind} d rw"], view)
    assert found == Replaced(path, f"/ of device 0:99 ({kind})")
    assert view.asked == []


def test_a_link_into_one_that_may_block_is_not_followed_further() -> None:
    path = "/usr/lib64/libcuda.so.1"
    view = View(links={path: "/trap/x"}, stored={("/trap/x", "libcuda.so.1")})
    found = check([*ours(lambda one: one == path), "500 1 0:99 / /trap rw - fuse d rw"], view)
    assert found == Replaced(path, "/x of device 0:99 (fuse) mounted at /trap")
    assert view.asked == [path]


INSIDE = "/run/fracgpu/allocations"
PAGES = {name: FileIdentity("0:9", f"/allocations/{name}/config") for name in ("a", "b")}


def page(name: str, *, root: str = "/allocations/{}/config", device: str = "0:9", number: int = 200) -> str:
    return f"{number} 1 {device} {root.format(name)} {INSIDE}/{name}/config ro - tmpfs t rw"


@pytest.mark.parametrize(
    ("lines", "owned", "listed", "found"),
    [
        ([page("a")], "a", ("a",), None),
        ([page("a"), page("b", number=201)], "ab", ("a", "b"), None),
        ([page("a", root="/allocations/{}/config//deleted")], "a", ("a",), None),
        ([page("a")], "a", ("a", ".b"), None),
        ([page("a")], "a", ("a", "b"), "b"),
        ([page("a")], "a", ("a", "zz"), "zz"),
        ([], "a", (), "a"),
        ([page("a", device="0:77")], "a", (), "a"),
        # The page of another allocation states another id; under this name it was not made by the plugin.
        ([page("a", root="/allocations/b/config")], "a", (), "a"),
        ([page("a"), "300 1 0:77 / /run rw - tmpfs t rw"], "a", (), "a"),
        ([page("a"), page("a", device="0:77", number=300).replace("300 1", "300 200")], "a", (), "a"),
    ],
)
def test_each_page_of_limits_is_the_plugins(
    lines: list[str], owned: str, listed: tuple[str, ...], found: str | None
) -> None:
    mounts = parse_mountinfo("\n".join([ROOT, *lines]).encode())
    forged = first_forged(mounts, pages=PAGES, owned=owned, view=View(listed=listed))
    assert (forged and (forged.path, forged.is_page)) == (found and (f"{INSIDE}/{found}/config", True))


def test_a_directory_of_pages_that_could_block_is_not_listed() -> None:
    mounts = parse_mountinfo("\n".join([ROOT, f"200 1 0:77 / {INSIDE} rw - fuse.x x rw"]).encode())
    view = View(listed=("a",))
    forged = first_forged(mounts, pages=PAGES, owned="a", view=view)
    assert forged is not None
    assert view.asked == []


def preloaded(**changed: str) -> list[str]:
    """The mounts of strict mode; `changed` by the last component of the path."""
    lines = []
    for number, (name, path) in enumerate(PRELOADED.items()):
        root = changed.get(path.rpartition("/")[2], f"/lib/d1/{name}")
        if root:
            lines.append(f"{700 + number} 1 8:1 {root} {path} ro - ext4 d rw")
    return lines


def test_strict_mode_in_place() -> None:
    assert check([*ours(), *preloaded()]) is None


def test_a_strict_container_needs_all_of_it() -> None:
    for path in PRELOADED.values():
        name = path.rpartition("/")[2]
        for other, found in (("/x/own", "/x/own of device 8:1 (ext4)"), ("", "the image's own file, or none")):
            assert check([*ours(), *preloaded(**{name: other})]) == Replaced(path, found)


def test_another_preload_list_is_nobodys_business_without_strict_mode() -> None:
    assert check([*ours(), "700 1 8:1 /x/own /etc/ld.so.preload ro - ext4 d rw"]) is None
