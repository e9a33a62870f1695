"""A container's view of a modelled GPU: prefix, limits, state files, and programs that run in it.

Every symbol of hooks.def is a parameter `hook` of whatever test asks for one, so that a hook without a check is a
failing test; those that take memory or give it back are a parameter `taker` as well.
"""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fracgpu.native.config_page import ConfigPage, encode_config_page
from fracgpu.native.fake_gpu import FakeGpuSpec, create_machine
from fracgpu.native.libraries import NativeLibraries
from fracgpu.native.state_file import new_state_file

MIB = 1 << 20
ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = Path(__file__).parent / "programs"
HOOKS_DEF = ROOT / "native" / "interceptor" / "hooks.def"
GPUS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa")
CC = (sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu.2.17")


@dataclass(frozen=True, slots=True)
class Hook:
    symbol: str
    concern: str

    @property
    def library(self) -> str:
        return "nvml" if self.symbol.startswith("nvml") else "cuda"

    @property
    def file_name(self) -> str:
        return {"nvml": "libnvidia-ml.so.1", "cuda": "libcuda.so.1"}[self.library]


# The concerns of hooks that take memory or give it back.
TAKERS = frozenset({"alloc", "free", "refs", "graphs"})
HOOKS = tuple(
    Hook(symbol=symbol, concern=concern)
    for concern, symbol in re.findall(r"^HOOK\((\w+), (\w+),", HOOKS_DEF.read_text(), flags=re.MULTILINE)
)

# What the NVML shim answers without asking the driver.
REFUSED = tuple(
    re.findall(r"^REFUSED\((\w+)\)", (HOOKS_DEF.parent / "nvml_refused.def").read_text(), flags=re.MULTILINE)
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "hook" in metafunc.fixturenames:
        metafunc.parametrize("hook", HOOKS, ids=[hook.symbol for hook in HOOKS])
    if "taker" in metafunc.fixturenames:
        takers = [hook for hook in HOOKS if hook.library == "cuda" and hook.concern in TAKERS]
        metafunc.parametrize("taker", takers, ids=[hook.symbol for hook in takers])


@pytest.fixture(scope="session")
def hooks() -> tuple[Hook, ...]:
    return HOOKS


@pytest.fixture(scope="session")
def refused() -> tuple[str, ...]:
    return REFUSED


@dataclass
class Prefix:
    """A standalone prefix: what `fracgpu run` makes, with the limits in `env`."""

    directory: Path
    machine: Path
    # Most tests are about allocations; those of contexts and code take this away.
    env: dict[str, str] = field(default_factory=lambda: {"FRACGPU_COUNT_OVERHEAD": "0"})

    def allocate(self, gpu: str, memory_mib: int, *, name: str = "", value: str | None = None) -> Path:
        """Add an allocation of `gpu`; returns its state file."""
        key = hashlib.sha256((name or gpu).encode()).hexdigest()[:16]
        state = self.directory / "allocations" / key / "state"
        state.parent.mkdir(parents=True)
        state.write_bytes(new_state_file(gpu))
        self.env[f"FRACGPU_ALLOCATION_{key}"] = f"gpu {gpu} {memory_mib}Mi 0" if value is None else value
        return state

    def count_overhead(self) -> None:
        """Contexts and code count, as they do unless somebody says otherwise."""
        self.env.pop("FRACGPU_COUNT_OVERHEAD", None)

    def use(self, library: str, path: Path) -> None:
        """Put another file in the place of a shim."""
        place = self.directory / library
        place.unlink()
        place.symlink_to(path)

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "LD_LIBRARY_PATH": str(self.directory),
            "FRACGPU_FAKE_GPU": str(self.machine),
            "FRACGPU_PREFIX": str(self.directory),
            **self.env,
        }

    def run(self, *command: str | Path, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [str(part) for part in command], env=self.environment(), capture_output=True, text=True, check=False
        )
        if expect is not None:
            assert result.returncode == expect, f"exit {result.returncode}\n{result.stdout}{result.stderr}"
        return result

    def start(self, *command: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(part) for part in command],
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


def gpu_spec(index: int, memory_mib: int = 8192) -> FakeGpuSpec:
    return FakeGpuSpec(
        uuid=GPUS[index],
        memory_bytes=memory_mib * MIB,
        minor=index,
        pci_bus_id=f"0000:{index + 1:02x}:00.0",
        context_bytes=0,
    )


def make_prefix(directory: Path, libraries: NativeLibraries, gpus: Sequence[FakeGpuSpec]) -> Prefix:
    prefix = Prefix(directory=directory / "prefix", machine=directory / "machine")
    create_machine(prefix.machine, gpus)
    (prefix.directory / "driver").mkdir(parents=True)
    (prefix.directory / "libcuda.so.1").symlink_to(libraries.standalone_cuda)
    (prefix.directory / "libnvidia-ml.so.1").symlink_to(libraries.standalone_nvml)
    (prefix.directory / "driver" / "libcuda.so.1").symlink_to(libraries.fake_cuda)
    (prefix.directory / "driver" / "libnvidia-ml.so.1").symlink_to(libraries.fake_nvml)
    return prefix


@pytest.fixture
def prefix(tmp_path: Path, native_build: NativeLibraries) -> Prefix:
    """A prefix on a machine with two GPUs of 8 GiB, without allocations yet."""
    return make_prefix(tmp_path, native_build, [gpu_spec(0), gpu_spec(1)])


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compile tests/native/programs/<name>.c and its further parts <name>_*.c, once per session."""
    directory = tmp_path_factory.mktemp("programs")

    def compiled(name: str) -> Path:
        target = directory / name
        if not target.exists():
            flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-variable"]
            sources = [PROGRAMS / f"{name}.c", *sorted(PROGRAMS.glob(f"{name}_*.c"))]
            subprocess.run([*CC, *flags, *map(str, sources), "-o", str(target), "-ldl", "-lpthread"], check=True)
        return target

    return compiled


@pytest.fixture(scope="session")
def mutant(tmp_path_factory: pytest.TempPathFactory, native_build: NativeLibraries) -> Callable[[Hook], Path]:
    """Build the standalone shim that lacks one hook."""
    directory = tmp_path_factory.mktemp("mutants")

    def built(hook: Hook) -> Path:
        target = directory / hook.symbol / hook.file_name
        make = ["make", "--no-print-directory", "-C", str(ROOT / "native"), f"mutant-standalone-{hook.library}"]
        arguments = [f"OUT={native_build.directory}", f"HOOK={hook.symbol}", f"MUTANT={target}"]
        subprocess.run([*make, *arguments], env={**os.environ, "PYTHON": sys.executable}, check=True)
        return target

    return built


@pytest.fixture(scope="session")
def arm64_build(native_build: NativeLibraries) -> NativeLibraries:
    """Build native/ once more, from the same sources, for another processor."""
    directory = native_build.directory.with_name(f"{native_build.directory.name}-arm64")
    make = ["make", "--no-print-directory", "-C", str(ROOT / "native"), f"OUT={directory}"]
    subprocess.run([*make, "TARGET=aarch64-linux-gnu.2.17"], env={**os.environ, "PYTHON": sys.executable}, check=True)
    return NativeLibraries(directory)


@pytest.fixture(scope="session")
def c_compiler() -> tuple[str, ...]:
    return CC


@dataclass
class Running:
    """A client that stops at each `ready` and goes on when it is waited for again."""

    process: subprocess.Popen[str]
    started: bool = False

    def _go_on(self) -> None:
        assert self.process.stdin is not None
        if self.started:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        self.started = True

    def until_ready(self) -> list[str]:
        self._go_on()
        assert self.process.stdout is not None
        seen = []
        while (line := self.process.stdout.readline()) not in ("ready\n", ""):
            seen.append(line.strip())
        return seen

    def until_end(self) -> list[str]:
        self._go_on()
        return self.process.communicate()[0].splitlines()


@dataclass
class Container:
    """The container build in namespaces of its own: limits only from what is mounted below /run/fracgpu."""

    root: Path
    prefix: Prefix
    libraries: NativeLibraries

    def allocate(
        self, gpu: str, memory_mib: int | None, *, name: str = "claim", cores_percent: int = 0, **page: object
    ) -> Path:
        """Make config page and state file as the node does; returns their directory. Contexts do not count."""
        page = {"count_overhead": False, **page}
        directory = self.root / "allocations" / f"{name}-gpu-{gpu[:12].lower()}-0"
        directory.mkdir(parents=True)
        limit = None if memory_mib is None else memory_mib * MIB
        described = ConfigPage(
            allocation_id=directory.name,
            device_uuid=gpu,
            memory_limit_bytes=limit,
            cores_percent=cores_percent,
            **page,  # type: ignore[arg-type]
        )
        (directory / "config").write_bytes(encode_config_page(described))
        (directory / "state").write_bytes(new_state_file(gpu))
        return directory

    def command(self, *command: str | Path) -> list[str]:
        # As a runtime does: each page is a mount of its own, read-only.
        mount = 'test ! -f "$page" || mount --bind -o ro "$page" "$page"'
        pages = f'for page in "$0"/allocations/*/config; do {mount}; done'
        script = f'mount -t tmpfs tmpfs /run && ln -s "$0" /run/fracgpu && {pages}; exec "$@"'
        return ["unshare", "-Urm", "sh", "-c", script, str(self.root), *map(str, command)]

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "LD_LIBRARY_PATH": str(self.root / "lib"),
            "FRACGPU_FAKE_GPU": str(self.prefix.machine),
        }

    def run(self, *command: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            self.command(*command),
            env=self.environment() | (env or {}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout}{result.stderr}"
        return result

    def start(self, *command: str | Path) -> Running:
        process = subprocess.Popen(
            self.command(*command),
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return Running(process)


def _namespaces_allowed() -> bool:
    probe = ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs tmpfs /run"]
    try:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def container(tmp_path: Path, prefix: Prefix, native_build: NativeLibraries) -> Container:
    if not _namespaces_allowed():
        pytest.skip("this machine allows no user and mount namespaces (unshare -Urm)")
    root = tmp_path / "run-fracgpu"
    for directory in ("driver", "lib", "allocations"):
        (root / directory).mkdir(parents=True)
    (root / "driver" / "libcuda.so.1").symlink_to(native_build.fake_cuda)
    (root / "driver" / "libnvidia-ml.so.1").symlink_to(native_build.fake_nvml)
    (root / "lib" / "libcuda.so.1").symlink_to(native_build.container_cuda)
    (root / "lib" / "libnvidia-ml.so.1").symlink_to(native_build.container_nvml)
    return Container(root=root, prefix=prefix, libraries=native_build)
