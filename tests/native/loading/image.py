"""A container's file system of our own: one C library, the shims in the driver's places, limits as mounts.

It runs in user and mount namespaces where these are allowed, and as root without a user namespace where a test is about
users.
"""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fracgpu.native.config_page import ConfigPage, encode_config_page
from fracgpu.native.libraries import NativeLibraries
from fracgpu.native.state_file import new_state_file
from tests.native.loading.setting import GPU, LIMIT_MIB, MIB

LIBRARIES = "usr/lib/x86_64-linux-gnu"
LIB64 = "usr/lib64"
DRIVER = "run/fracgpu/driver"
PRELOAD = "run/fracgpu/preload"
COMPAT = "/usr/local/cuda/compat"
_WANTED = ("ld-linux-x86-64.so.2", "libc.so.6", "libdl.so.2", "libpthread.so.0", "libm.so.6")
# What a runtime does: pages are mounts of their own and read-only, and there is a /proc.
_ENTER = """
mount --rbind /proc "$0/proc" &&
for page in "$0"/run/fracgpu/allocations/*/config; do
    test ! -f "$page" || mount --bind -o ro "$page" "$page" || exit 9
done &&
exec chroot $AS "$0" "$@"
"""


@dataclass
class Image:
    """A root directory. `hardware` is what the model's kernel module would be: there whatever the environment."""

    root: Path
    state: Path = field(init=False)
    hardware: str = "FRACGPU_FAKE_GPU=/machine"

    def fill(self, glibc: Path, libraries: NativeLibraries, machine: Path) -> None:
        """Put everything there: C library, shims, the model behind them, one allocation, the machine."""
        for directory in ("proc", "etc", "bin", LIBRARIES, LIB64, DRIVER, "lib64", "tmp"):
            (self.root / directory).mkdir(parents=True)
        (library,) = glibc.rglob("libc.so.6")
        for name in _WANTED:
            shutil.copy(library.parent / name, self.root / LIBRARIES / name)
        (self.root / "lib64" / _WANTED[0]).symlink_to(f"/{LIBRARIES}/{_WANTED[0]}")
        for stem, shim, real in (
            ("libcuda", libraries.container_cuda, libraries.fake_cuda),
            ("libnvidia-ml", libraries.container_nvml, libraries.fake_nvml),
        ):
            shutil.copy(shim, self.root / LIBRARIES / f"{stem}.so.1")
            for other in (f"{LIBRARIES}/{stem}.so", f"{LIB64}/{stem}.so.1", f"{LIB64}/{stem}.so"):
                # One file at all its places, as when it is mounted.
                (self.root / other).hardlink_to(self.root / LIBRARIES / f"{stem}.so.1")
            shutil.copy(real, self.root / DRIVER / f"{stem}.so.1")
        (self.root / "machine").hardlink_to(machine)
        self._allocate("claim-gpu-0")

    def be_strict(self, libraries: NativeLibraries) -> None:
        """Put there what Prepare mounts for a class with `strict`."""
        place = self.root / PRELOAD
        place.mkdir(parents=True)
        shutil.copy(libraries.preload_cuda, place / "libcuda.so.1")
        shutil.copy(libraries.preload_alias, place / "libcuda.so")
        shutil.copy(libraries.preload_list, self.root / "etc" / "ld.so.preload")

    def add_compat(self, libraries: NativeLibraries) -> None:
        """Put a driver of the image's own where NVIDIA's images have one."""
        place = self.root / COMPAT[1:]
        place.mkdir(parents=True)
        for name in ("libcuda.so.1", "libcuda.so"):
            shutil.copy(libraries.fake_cuda, place / name)

    def _allocate(self, name: str) -> None:
        directory = self.root / "run/fracgpu/allocations" / name
        directory.mkdir(parents=True)
        page = ConfigPage(
            allocation_id=name,
            device_uuid=GPU,
            memory_limit_bytes=LIMIT_MIB * MIB,
            cores_percent=0,
            count_overhead=False,
        )
        (directory / "config").write_bytes(encode_config_page(page))
        self.state = directory / "state"
        self.state.write_bytes(new_state_file(GPU))
        # As the plugin makes it: a container's user may be anybody.
        self.state.chmod(0o666)

    def add(self, program: Path, name: str = "", *, mode: int = 0o755) -> str:
        """Put a program into /bin; returns its path inside."""
        target = self.root / "bin" / (name or program.name)
        shutil.copy(program, target)
        target.chmod(mode)
        return f"/bin/{target.name}"

    def command(self, *words: str | Path, namespaces: str = "-Urm") -> list[str]:
        """Return what runs `words` in there."""
        return ["unshare", namespaces, "sh", "-c", _ENTER, str(self.root), *map(str, words)]

    def run(
        self, *words: str | Path, env: Sequence[str] = (), namespaces: str = "-Urm", user: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program whose environment is the hardware's and `env`, and nothing else."""
        variables = dict(one.split("=", 1) for one in (self.hardware, *env))
        path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "AS": f"--userspec={user}:{user}" if user else ""}
        command = self.command(*words, namespaces=namespaces)
        return subprocess.run(command, env={**path, **variables}, capture_output=True, text=True, check=False)
