"""Which GPUs a process is shown when only device nodes say so: FRACGPU_FAKE_DEVICES."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.native.fake.container import (
    CONTROL_MINOR,
    ENVIRONMENT,
    NVIDIA_MAJOR,
    USER,
    NoDeviceCgroup,
    container,
    device_cgroup,
    why_no_nodes,
)
from tests.native.fake.cuda_process import NO_DEVICE, OUT_I32, SUCCESS, CudaProcess, u32

Spawn = Callable[..., CudaProcess]
FIRST, SECOND = "GPU-6c1f2a34-0b1c-4d2e-8f30-415263748596", "GPU-6c1f77aa-1c2d-4e3f-9041-526374859607"
NO_PERMISSION, DRIVER_NOT_LOADED, UNKNOWN = 4, 9, 999

NODE, FILE, DIRECTORY, PIPE, DANGLING = "node", "file", "directory", "pipe", "dangling"


def make(directory: Path, entries: Mapping[str, str]) -> Path:
    """Make what `entries` names. A link to /dev/null is a character device that opens, and takes no rights to make."""
    directory.mkdir()
    for name, kind in entries.items():
        path = directory / name
        if kind in (NODE, DANGLING):
            path.symlink_to("/dev/null" if kind == NODE else "/nonexistent")
        elif kind == FILE:
            path.touch()
        elif kind == DIRECTORY:
            path.mkdir()
        else:
            os.mkfifo(path)
    return directory


def view(command: tuple[str, ...], environment: dict[str, str]) -> tuple[int, list[str], int, list[str]]:
    """Return what both libraries show a process: codes of initialisation and UUIDs."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    cuda, nvml = seen["cuda"], seen["nvml"]
    uuids = [[device["uuid"] for device in library["devices"]] for library in (cuda, nvml)]
    return cuda["status"], uuids[0], nvml["status"], uuids[1]


def seen(uuids: list[str]) -> tuple[int, list[str], int, list[str]]:
    """What a process sees that may talk to the driver and use these GPUs: without any CUDA does not start."""
    return SUCCESS if uuids else NO_DEVICE, uuids, SUCCESS, uuids


def nothing(nvml_code: int) -> tuple[int, list[str], int, list[str]]:
    return NO_DEVICE, [], nvml_code, []


BOTH = {"nvidiactl": NODE, "nvidia0": NODE, "nvidia3": NODE}


@pytest.mark.parametrize(
    ("entries", "variables", "expected"),
    [
        (BOTH, {}, seen([FIRST, SECOND])),
        ({"nvidiactl": NODE, "nvidia0": NODE}, {}, seen([FIRST])),
        ({"nvidiactl": NODE, "nvidia3": NODE}, {}, seen([SECOND])),
        ({"nvidiactl": NODE, "nvidia1": NODE}, {}, seen([])),
        ({"nvidiactl": NODE}, {}, seen([])),
        ({"nvidia0": NODE, "nvidia3": NODE}, {}, nothing(DRIVER_NOT_LOADED)),
        ({}, {}, nothing(DRIVER_NOT_LOADED)),
        ({**BOTH, "nvidiactl": FILE}, {}, nothing(DRIVER_NOT_LOADED)),
        ({**BOTH, "nvidiactl": DANGLING}, {}, nothing(DRIVER_NOT_LOADED)),
        ({**BOTH, "nvidia0": FILE}, {}, seen([SECOND])),
        ({**BOTH, "nvidia0": DIRECTORY}, {}, seen([SECOND])),
        ({**BOTH, "nvidia0": PIPE}, {}, seen([SECOND])),
        ({**BOTH, "nvidia3": DANGLING}, {}, seen([FIRST])),
        (BOTH, {"FRACGPU_FAKE_VISIBLE": "3"}, seen([SECOND])),
        (BOTH, {"FRACGPU_FAKE_VISIBLE": ""}, seen([])),
        ({"nvidiactl": NODE, "nvidia0": NODE}, {"FRACGPU_FAKE_VISIBLE": "0,3"}, seen([FIRST])),
        ({"nvidiactl": NODE, "nvidia0": NODE}, {"FRACGPU_FAKE_VISIBLE": "3"}, seen([])),
        # CUDA counts among what is there; NVML does not know this variable.
        (BOTH, {"CUDA_VISIBLE_DEVICES": "1"}, (SUCCESS, [SECOND], SUCCESS, [FIRST, SECOND])),
        ({"nvidiactl": NODE, "nvidia3": NODE}, {"CUDA_VISIBLE_DEVICES": "0"}, seen([SECOND])),
    ],
    ids=str,
)
def test_a_gpu_is_there_with_its_node(
    model: Any, tmp_path: Path, entries: dict[str, str], variables: dict[str, str], expected: object
) -> None:
    directory = make(tmp_path / "dev", entries)
    environment = {**model.environment, "FRACGPU_FAKE_DEVICES": str(directory), **variables}
    assert view((str(model.libraries.probe("fracgpu-view")),), environment) == expected


@pytest.mark.parametrize("directory", ["", "/nonexistent", "x" * 5000], ids=["empty", "missing", "endless"])
def test_without_the_directory_nothing_is_there(model: Any, directory: str) -> None:
    environment = {**model.environment, "FRACGPU_FAKE_DEVICES": directory}
    assert view((str(model.libraries.probe("fracgpu-view")),), environment) == nothing(DRIVER_NOT_LOADED)


def test_cuda_looks_once(model: Any, spawn: Spawn, tmp_path: Path) -> None:
    directory = make(tmp_path / "dev", {"nvidiactl": NODE, "nvidia0": NODE})
    process = spawn(FRACGPU_FAKE_DEVICES=str(directory)).start()
    (directory / "nvidia3").symlink_to("/dev/null")
    process.check("cuInit", u32(0))
    assert process.check("cuDeviceGetCount", OUT_I32) == [1]
    for node in directory.iterdir():
        node.unlink()
    assert process.check("cuDeviceGetCount", OUT_I32) == [1]
    process.allocate(1 << 20)


def test_nvml_looks_once_a_session(model: Any, spawn: Spawn, tmp_path: Path) -> None:
    directory = make(tmp_path / "dev", BOTH)
    process = spawn(FRACGPU_FAKE_DEVICES=str(directory))
    ask = (
        "count = ctypes.c_uint(99); code = lib.nvmlDeviceGetCount_v2(ctypes.byref(count)); result = [code, count.value]"
    )
    process.python('lib = ctypes.CDLL("libnvidia-ml.so.1"); result = lib.nvmlInit_v2()')
    (directory / "nvidia0").unlink()
    assert process.python(ask) == [0, 2]
    assert process.python("result = [lib.nvmlInit_v2(), lib.nvmlShutdown()]") == [0, 0]
    assert process.python(ask) == [0, 2]
    assert process.python("result = [lib.nvmlShutdown(), lib.nvmlInit_v2()]") == [0, 0]
    assert process.python(ask) == [0, 1]
    (directory / "nvidiactl").unlink()
    assert process.python("result = [lib.nvmlShutdown(), lib.nvmlInit_v2()]") == [0, DRIVER_NOT_LOADED]


@pytest.fixture(scope="module")
def _nodes() -> None:
    if reason := why_no_nodes():
        pytest.skip(reason)


MINORS = {"nvidiactl": CONTROL_MINOR, "nvidia0": 0, "nvidia3": 3}


def nodes(**modes: str) -> str:
    """Shell that makes NVIDIA's nodes in a container, readable and writable for all unless `modes` says otherwise."""
    lines = [
        f"mknod -m {modes.get(name, '666')} /mnt/dev/{name} c {NVIDIA_MAJOR} {minor}" for name, minor in MINORS.items()
    ]
    return "\n".join(lines)


def view_in_container(model: Any, *, more: str, user: int | None = None) -> tuple[int, list[str], int, list[str]]:
    prefix = container(model.path, model.libraries, more=more, user=user)
    environment = {**ENVIRONMENT, "FRACGPU_FAKE_DEVICES": "/mnt/dev"}
    return view((*prefix, "/mnt/bin/fracgpu-view"), environment)


@pytest.mark.usefixtures("_nodes")
@pytest.mark.parametrize(
    ("modes", "user", "expected"),
    [
        ({}, None, seen([FIRST, SECOND])),
        ({}, USER, seen([FIRST, SECOND])),
        ({"nvidia3": "600"}, USER, seen([FIRST])),
        ({"nvidia0": "444"}, USER, seen([SECOND])),
        ({"nvidiactl": "660"}, USER, nothing(NO_PERMISSION)),
        # Root's right to open everything is no different here.
        ({"nvidiactl": "000", "nvidia0": "000"}, None, seen([FIRST, SECOND])),
    ],
    ids=str,
)
def test_nodes_without_a_driver_count_for_those_who_may_open_them(
    model: Any, modes: dict[str, str], user: int | None, expected: object
) -> None:
    assert view_in_container(model, more=nodes(**modes), user=user) == expected


@pytest.mark.usefixtures("_nodes")
def test_nodes_on_a_file_system_without_devices_do_not_count(model: Any) -> None:
    more = f"mount -t tmpfs -o nodev tmpfs /mnt/dev\n{nodes()}"
    assert view_in_container(model, more=more) == nothing(NO_PERMISSION)


@pytest.mark.usefixtures("_nodes")
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("denied", "expected"), [(3, seen([FIRST])), (CONTROL_MINOR, nothing(UNKNOWN))], ids=["a GPU", "the control node"]
)
def test_what_the_devices_cgroup_denies_is_not_there(model: Any, version: int, denied: int, expected: object) -> None:
    with ExitStack() as stack:
        try:
            procs = stack.enter_context(device_cgroup(version, denied))
        except NoDeviceCgroup as error:
            pytest.skip(f"devices cgroup, version {version}: {error}")
        # The shell itself joins; the program it becomes stays there.
        assert view_in_container(model, more=f"{nodes()}\necho 0 >{procs}") == expected
