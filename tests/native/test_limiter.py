"""The limiter on its own: unit tests under sanitizers, the order of its reads, and any history against a model."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cffi
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from fracgpu.native.device_uuid import uuid_bytes
from fracgpu.native.libraries import NativeLibraries
from fracgpu.native.state_file import new_state_file, read_state_file

ROOT = Path(__file__).resolve().parent.parent.parent
UUID = "GPU-11111111-2222-3333-4444-555555555555"
UNITS = (ROOT / "tests" / "native" / "programs" / "limiter_units.h").read_text()
UNIT_NAMES = re.findall(r"^    UNIT\((\w+)\)", UNITS, flags=re.MULTILINE)
LIMIT = 1000


@pytest.fixture(scope="session")
def make(native_build: NativeLibraries) -> Callable[..., None]:
    def run(*arguments: str) -> None:
        command = ["make", "--no-print-directory", "-C", str(ROOT / "native"), f"OUT={native_build.directory}"]
        subprocess.run([*command, *arguments], env={**os.environ, "PYTHON": sys.executable}, check=True)

    return run


@pytest.fixture(scope="session")
def sanitized(make: Callable[..., None], native_build: NativeLibraries) -> Path:
    make(str(native_build.directory / "sanitize" / "limiter_units"))
    return native_build.directory / "sanitize" / "limiter_units"


@pytest.mark.parametrize("name", UNIT_NAMES)
def test_unit_under_sanitizers(sanitized: Path, tmp_path: Path, name: str) -> None:
    result = subprocess.run([sanitized, name, tmp_path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("mutant", "exit_code"), [("", 0), ("-DFRACGPU_MUTANT_SCAN_ORDER", 1)], ids=["as built", "committed read first"]
)
def test_reservation_is_never_missed_between_two_reads(
    make: Callable[..., None], tmp_path: Path, mutant: str, exit_code: int
) -> None:
    program = tmp_path / "scan_order"
    defines = f"-DFRACGPU_TEST_BETWEEN_READS=between_reads {mutant}"
    main = ROOT / "tests" / "native" / "programs" / "scan_order.c"
    make("limiter-program", f"DEFINES={defines}", f"MAIN={main}", f"FILE={program}")
    assert subprocess.run([program, tmp_path], check=False).returncode == exit_code


def test_reaper_declares_nobody_dead_who_just_came(c_compiler: tuple[str, ...], tmp_path: Path) -> None:
    program = tmp_path / "reap_race"
    sources = [path for path in sorted((ROOT / "native" / "limiter").glob("*.c")) if path.stem != "slot_lock"]
    main = ROOT / "tests" / "native" / "programs" / "reap_race.c"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*c_compiler, *flags, str(main), *map(str, sources), "-o", str(program)], check=True)
    assert subprocess.run([program, tmp_path], check=False).returncode == 0


class Library:
    """The limiter through cffi; each ledger stands for a process."""

    def __init__(self, path: Path) -> None:
        self.ffi = cffi.FFI()
        self.ffi.cdef(
            """
            int fg_ledger_attach(void *ledger, const char *path, const uint8_t uuid[16]);
            void fg_ledger_detach(void *ledger);
            int fg_ledger_reserve(void *ledger, uint64_t limit, uint64_t bytes, int kind);
            void fg_ledger_discharge(void *ledger, uint64_t bytes, int kind);
            uint64_t fg_ledger_used(void *ledger);
            """
        )
        self.lib: Any = self.ffi.dlopen(str(path))

    def attach(self, path: Path) -> Any:
        ledger = self.ffi.new("uint64_t[256]")
        assert self.lib.fg_ledger_attach(ledger, str(path).encode(), uuid_bytes(UUID)) == 0
        return ledger


@pytest.fixture(scope="session")
def library(make: Callable[..., None], native_build: NativeLibraries) -> Library:
    make("limiter-shared")
    return Library(native_build.directory / "test" / "liblimiter.so")


class History(RuleBasedStateMachine):
    """Random reservations, frees, births and deaths of up to six processes: granted exactly when there is room."""

    library: Library
    directory: Path

    def __init__(self) -> None:
        super().__init__()
        self.path = self.directory / "state"
        self.path.write_bytes(new_state_file(UUID))
        self.ledgers: list[Any] = [self.library.attach(self.path)]
        self.held: list[list[tuple[int, int]]] = [[]]
        self.peak = 0

    def total(self) -> int:
        return sum(size for held in self.held for size, _ in held)

    @rule(who=st.integers(0, 5), size=st.integers(0, LIMIT + 10) | st.integers(2**64 - 5, 2**64 - 1))
    def reserve(self, who: int, size: int) -> None:
        index = who % len(self.ledgers)
        kind = who % 3
        refused = self.library.lib.fg_ledger_reserve(self.ledgers[index], LIMIT, size, kind)
        assert bool(refused) == (self.total() + size > LIMIT)
        if not refused:
            self.held[index].append((size, kind))
            self.peak = max(self.peak, self.total())

    @rule(who=st.integers(0, 5), which=st.integers(0, 50))
    def free(self, who: int, which: int) -> None:
        index = who % len(self.ledgers)
        if self.held[index]:
            size, kind = self.held[index].pop(which % len(self.held[index]))
            self.library.lib.fg_ledger_discharge(self.ledgers[index], size, kind)

    @rule()
    def born(self) -> None:
        if len(self.ledgers) < 6:
            self.ledgers.append(self.library.attach(self.path))
            self.held.append([])

    @rule(who=st.integers(0, 5))
    def killed(self, who: int) -> None:
        if len(self.ledgers) > 1:
            index = who % len(self.ledgers)
            self.library.lib.fg_ledger_detach(self.ledgers.pop(index))
            self.held.pop(index)

    @invariant()
    def host_sees_the_same(self) -> None:
        snapshot = read_state_file(self.path)
        assert snapshot.used_bytes == self.total()
        # A process that died unnoticed still counts towards the peak until somebody needs its room.
        assert self.peak <= snapshot.peak_bytes <= LIMIT
        assert len(snapshot.processes) == len(self.ledgers)
        by_kind = sum(slot.managed_bytes + slot.pool_bytes for slot in snapshot.processes)
        assert by_kind == sum(size for held in self.held for size, kind in held if kind)

    def teardown(self) -> None:
        for ledger in self.ledgers:
            self.library.lib.fg_ledger_detach(ledger)


def test_any_history_matches_the_model(library: Library, tmp_path: Path) -> None:
    History.library = library
    History.directory = tmp_path
    run_state_machine_as_test(History, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))
