"""``fracgpu run``: from the options to the command's exit status."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fracgpu.cdi.discovery import DriverFiles, discover_driver
from fracgpu.cdi.errors import DriverAbsent
from fracgpu.cdi.roots import find_driver_root
from fracgpu.cli.bounded import answer_within
from fracgpu.cli.errors import RunRefused, UsageWrong
from fracgpu.cli.run_command.assemble import RunAllocation, allocate, install_libraries, run_environment
from fracgpu.cli.run_command.child import CommandNotStarted, HeldSignals, exit_status_of, keep_exit_statuses
from fracgpu.cli.run_command.options import RunOptions
from fracgpu.cli.run_command.place import (
    PrefixDirectory,
    make_prefix_directory,
    prefix_users,
    remove_stale_prefixes,
    temporary_places,
)
from fracgpu.cli.run_command.selection import select_gpus
from fracgpu.cli.run_command.summary import CORES_NOTE, summary_lines
from fracgpu.cli.streams import put
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.inventory import NvmlInventory
from fracgpu.driver.names import ALLOCATION_ENV_PREFIX
from fracgpu.native.libraries import NativeLibraries

EXIT_USAGE, EXIT_REFUSED = 2, 125
# A driver that wakes a sleeping GPU up takes seconds; with eight of them and no persistence mode, half a minute.
_NVML_TIMEOUT_SECONDS = 60.0


def run_command(options: RunOptions) -> int:
    """Run the command under its limits; return the exit status for this process. Called from the main thread."""
    keep_exit_statuses()
    try:
        return _run(options, os.environ)
    except UsageWrong as error:
        _say(str(error))
        return EXIT_USAGE
    except CommandNotStarted as error:
        _say(str(error))
        return error.exit_status
    except FracgpuError as error:
        _say(str(error))
        return EXIT_REFUSED
    except OSError as error:
        _say(f"{error.filename or 'this machine'}: {error.strerror}; correct that and try again")
        return EXIT_REFUSED


def _run(options: RunOptions, environment: Mapping[str, str]) -> int:
    if not options.command:
        raise UsageWrong(
            "the command", "is missing", remedy="give it after --, as in: fracgpu run --memory 2Gi -- nvidia-smi"
        )
    _refuse_nesting(environment)
    libraries = NativeLibraries.locate()
    driver = _driver(options.driver_root)
    gpus = select_gpus(options, _list_gpus(driver), environment)
    places = temporary_places()
    remove_stale_prefixes(places)
    with HeldSignals() as signals:
        directory = make_prefix_directory(places)
        try:
            allocations = _fill(directory.path, options, gpus, libraries, driver)
            number = signals.arrived()
            if number is not None:
                return exit_status_of(number)
            if options.cores_percent:
                _note(options, CORES_NOTE)
            pid = signals.start(options.command, run_environment(environment, directory.path, driver, allocations))
            status = signals.wait(pid)
            for line in summary_lines(allocations):
                _note(options, line)
            return status
        finally:
            _close(directory, lambda line: _note(options, line))


def _fill(
    prefix: Path, options: RunOptions, gpus: Sequence[Gpu], libraries: NativeLibraries, driver: DriverFiles
) -> tuple[RunAllocation, ...]:
    try:
        allocations = allocate(prefix, gpus, memory_bytes=options.memory_bytes, cores_percent=options.cores_percent)
        install_libraries(prefix, libraries, driver)
    except OSError as error:
        raise RunRefused(
            f"temporary directory {prefix}",
            f"can not be filled: {os.strerror(error.errno or errno.EIO)}",
            remedy="make room there, or set TMPDIR to another directory",
        ) from error
    return allocations


def _refuse_nesting(environment: Mapping[str, str]) -> None:
    # A second set of limits would be added to the first, or replace it: either way the outer limit would be gone.
    if any(key.startswith(ALLOCATION_ENV_PREFIX) for key in environment):
        raise RunRefused(
            "this shell", "is under a limit of fracgpu already", remedy="run the command without fracgpu run"
        )


def _driver(root: Path | None) -> DriverFiles:
    if root is not None:
        return discover_driver(root)
    found = find_driver_root(Path("/"))
    if found is None:
        raise DriverAbsent(
            "this machine",
            "has no NVIDIA driver in any usual place",
            remedy="install it, or say where it is with --driver-root",
        )
    return discover_driver(found.path)


def _list_gpus(driver: DriverFiles) -> tuple[Gpu, ...]:
    def ask() -> tuple[Gpu, ...]:
        with NvmlInventory(driver.nvml) as inventory:
            return inventory.list_gpus()

    return answer_within(_NVML_TIMEOUT_SECONDS, "NVML", ask)


def _close(directory: PrefixDirectory, note: Callable[[str], None]) -> None:
    if prefix_users(directory.path):
        note("processes of the command still run, under the same limit; a later fracgpu run cleans up after them")
        directory.leave()
    else:
        directory.remove()


def _note(options: RunOptions, line: str) -> None:
    if not options.quiet:
        _say(line)


def _say(line: str) -> None:
    put(sys.stderr, f"fracgpu run: {line}\n")
