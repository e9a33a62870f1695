"""Which devices a process sees, what they say about themselves, and what happens without any."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.native.fake.cuda_process import (
    INVALID_DEVICE,
    INVALID_VALUE,
    MIB,
    NO_DEVICE,
    NOT_INITIALIZED,
    NULL,
    OUT_I32,
    OUT_U32,
    OUT_U64,
    SUCCESS,
    CudaProcess,
    buffer,
    i32,
    u32,
)

Spawn = Callable[..., CudaProcess]
FIRST, SECOND = "6c1f2a340b1c4d2e8f30415263748596", "6c1f77aa1c2d4e3f9041526374859607"


def uuids(process: CudaProcess) -> list[str]:
    (count,) = process.check("cuDeviceGetCount", OUT_I32)
    return [process.check("cuDeviceGetUuid_v2", buffer(16), i32(device))[0] for device in range(count)]


def test_nothing_works_before_initialisation(spawn: Spawn) -> None:
    process = spawn()
    calls: dict[str, list[list[Any]]] = {
        "cuDeviceGetCount": [OUT_I32],
        "cuCtxGetCurrent": [OUT_U64],
        "cuMemGetInfo_v2": [OUT_U64, OUT_U64],
        "cuMemFree_v2": [["u64", 0]],
    }
    for name, arguments in calls.items():
        assert process.call(name, *arguments).rc == NOT_INITIALIZED, name


def test_the_version_needs_no_initialisation(spawn: Spawn) -> None:
    (version,) = spawn().check("cuDriverGetVersion", OUT_I32)
    assert version >= 12000


def test_flags_of_initialisation_are_reserved(spawn: Spawn) -> None:
    assert spawn().call("cuInit", u32(1)).rc == INVALID_VALUE


def test_initialising_twice_is_fine(spawn: Spawn) -> None:
    process = spawn()
    process.check("cuInit", u32(0))
    process.check("cuInit", u32(0))


def test_device_ordinals_are_checked(cuda: CudaProcess) -> None:
    (count,) = cuda.check("cuDeviceGetCount", OUT_I32)
    for ordinal in (-1, count):
        assert cuda.call("cuDeviceGet", OUT_I32, i32(ordinal)).rc == INVALID_DEVICE
        assert cuda.call("cuDeviceTotalMem_v2", OUT_U64, i32(ordinal)).rc == INVALID_DEVICE


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cuDeviceGetCount", [NULL]),
        ("cuDeviceGet", [NULL, i32(0)]),
        ("cuDeviceTotalMem_v2", [NULL, i32(0)]),
        ("cuDeviceGetUuid_v2", [NULL, i32(0)]),
        ("cuDeviceGetAttribute", [NULL, i32(1), i32(0)]),
        ("cuDriverGetVersion", [NULL]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_null_out_parameters_are_refused(cuda: CudaProcess, name: str, arguments: list[Any]) -> None:
    assert cuda.call(name, *arguments).rc == INVALID_VALUE


def test_the_pci_bus_id_leads_back_to_the_device(cuda: CudaProcess) -> None:
    (text,) = cuda.check("cuDeviceGetPCIBusId", buffer(32), i32(32), i32(0))
    assert cuda.check("cuDeviceGetByPCIBusId", OUT_I32, ["bytes", text]) == [0]


def test_every_attribute_up_to_the_drivers_version_is_known(cuda: CudaProcess) -> None:
    refused = [n for n in range(1, 135) if cuda.call("cuDeviceGetAttribute", OUT_I32, i32(n), i32(0)).rc != SUCCESS]
    assert refused == []
    assert cuda.call("cuDeviceGetAttribute", OUT_I32, i32(100000), i32(0)).rc == INVALID_VALUE


def test_devices_come_in_the_machines_order(spawn: Spawn, model: Any) -> None:
    process = spawn()
    process.check("cuInit", u32(0))
    assert uuids(process) == [FIRST, SECOND]
    assert process.check("cuDeviceTotalMem_v2", OUT_U64, i32(1)) == [512 * MIB]
    assert process.check("cuDeviceGetAttribute", OUT_I32, i32(33), i32(1)) == [0x41]


def test_sizes_of_the_old_abi_have_32_bits(spawn: Spawn, model: Any) -> None:
    process = spawn()
    process.check("cuInit", u32(0))
    assert process.check("cuDeviceTotalMem", OUT_U32, i32(0)) == [1024 * MIB]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"FRACGPU_FAKE_VISIBLE": "0"}, [FIRST]),
        ({"FRACGPU_FAKE_VISIBLE": "3"}, [SECOND]),
        ({"FRACGPU_FAKE_VISIBLE": "3,0"}, [FIRST, SECOND]),
        ({"FRACGPU_FAKE_VISIBLE": "7"}, None),
        ({"FRACGPU_FAKE_VISIBLE": ""}, None),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [SECOND]),
        ({"CUDA_VISIBLE_DEVICES": "1,0"}, [SECOND, FIRST]),
        ({"CUDA_VISIBLE_DEVICES": "0,5,1"}, [FIRST]),
        ({"CUDA_VISIBLE_DEVICES": ""}, None),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, None),
        ({"CUDA_VISIBLE_DEVICES": "GPU-6c1f77aa-1c2d-4e3f-9041-526374859607"}, [SECOND]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-6c1f77"}, [SECOND]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-6c1f"}, None),
        ({"FRACGPU_FAKE_VISIBLE": "3", "CUDA_VISIBLE_DEVICES": "0"}, [SECOND]),
        ({"FRACGPU_FAKE_VISIBLE": "0", "CUDA_VISIBLE_DEVICES": "1"}, None),
    ],
    ids=str,
)
def test_visibility(spawn: Spawn, model: Any, variables: dict[str, str], expected: list[str] | None) -> None:
    process = spawn(**variables)
    reply = process.call("cuInit", u32(0))
    if expected is None:
        assert reply.rc == NO_DEVICE
    else:
        assert reply.rc == SUCCESS
        assert uuids(process) == expected


@pytest.mark.parametrize(
    "content",
    [None, b"", b"\0" * 270336, b"FAKEGPU1" + b"\xff" * 270328, b"FAKEGPU1"],
    ids=["missing", "empty", "zeros", "garbage", "short"],
)
def test_without_a_machine_there_is_no_device(spawn: Spawn, model: Any, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "other"
    if content is not None:
        path.write_bytes(content)
    process = spawn(FRACGPU_FAKE_GPU=str(path))
    assert process.call("cuInit", u32(0)).rc == NO_DEVICE
    assert process.call("cuDeviceGetCount", OUT_I32).rc == NOT_INITIALIZED
