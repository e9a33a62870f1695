"""Which GPUs a run gets."""

from collections.abc import Mapping

import pytest

from fracgpu.cli.errors import RunRefused
from fracgpu.cli.run_command.options import RunOptions
from fracgpu.cli.run_command.selection import select_gpus
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.names import GpuUuid

MIB = 1 << 20
UUIDS = tuple(GpuUuid(f"GPU-{digit}a6c1f2a-0b1c-4d2e-8f30-41526374859{index}") for index, digit in enumerate("112"))


def gpu(index: int, *, healthy: bool = True) -> Gpu:
    return Gpu(
        uuid=UUIDS[index],
        product_name="NVIDIA L40S",
        brand="NVIDIA",
        architecture="Ada",
        pci_bus_id=f"0000:0{index + 1}:00.0",
        pcie_root=None,
        numa_node=-1,
        memory_total_bytes=8192 * MIB + 5,
        minor_number=index,
        index=index,
        driver_version="580.65.6",
        cuda_driver_version="13.0.0",
        compute_capability="8.9.0",
        healthy=healthy,
    )


CARDS = tuple(gpu(index) for index in range(3))


def selected(
    *names: str, cards: tuple[Gpu, ...] = CARDS, memory_mib: int = 1024, env: Mapping[str, str] | None = None
) -> list[int]:
    options = RunOptions(
        memory_bytes=memory_mib * MIB, cores_percent=0, gpus=names, driver_root=None, quiet=False, command=("true",)
    )
    return [chosen.index for chosen in select_gpus(options, cards, env or {})]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), [0]),
        (("2",), [2]),
        ((UUIDS[1],), [1]),
        ((UUIDS[1].upper(),), [1]),
        (("GPU-2",), [2]),
        (("2", UUIDS[0]), [2, 0]),
    ],
    ids=["first", "index", "uuid", "upper case", "beginning", "several, in order"],
)
def test_gpus_are_named_by_index_or_uuid(names: tuple[str, ...], expected: list[int]) -> None:
    assert selected(*names) == expected


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"CUDA_VISIBLE_DEVICES": f"{UUIDS[2]},{UUIDS[0]}"}, [2, 0]),
        ({"CUDA_VISIBLE_DEVICES": "1, 2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, [1, 2]),
    ],
    ids=["uuids", "numbers in bus order"],
)
def test_cuda_visible_devices_counts_without_gpu(env: dict[str, str], expected: list[int]) -> None:
    assert selected(env=env) == expected
    assert selected("0", env=env) == [0]


def test_a_number_is_clear_with_one_gpu() -> None:
    assert selected(cards=CARDS[:1], env={"CUDA_VISIBLE_DEVICES": "0"}) == [0]


@pytest.mark.parametrize(
    ("names", "env", "text"),
    [
        (("3",), {}, "GPU 3: is none of the 3 on this machine; choose one that nvidia-smi -L shows"),
        (("GPU-1",), {}, "GPU GPU-1: is the beginning of several UUIDs; give the whole UUID"),
        (("GPU-",), {}, "is none of the 3"),
        (("",), {}, "is none of the 3"),
        (("-1",), {}, "is none of the 3"),
        (("MIG-1",), {}, "is a MIG device, which has limits of its own"),
        (("0", UUIDS[0]), {}, "is asked for twice; name each GPU once"),
        ((), {"CUDA_VISIBLE_DEVICES": "0"}, "counts GPUs in CUDA's own order; choose with --gpu, or set"),
        ((), {"CUDA_VISIBLE_DEVICES": ""}, "which hides every GPU"),
        ((), {"CUDA_VISIBLE_DEVICES": "-1"}, "which hides every GPU"),
        ((), {"CUDA_VISIBLE_DEVICES": "MIG-1"}, "is a MIG device"),
    ],
)
def test_an_unclear_choice_is_refused(names: tuple[str, ...], env: dict[str, str], text: str) -> None:
    with pytest.raises(RunRefused) as refused:
        selected(*names, env=env)
    assert text in str(refused.value)


def test_what_the_gpu_has_may_be_asked_for_and_no_more() -> None:
    assert selected(memory_mib=8192) == [0]
    with pytest.raises(RunRefused, match="has 8192Mi, less than --memory 8193Mi; ask for less"):
        selected(memory_mib=8193)


def test_a_lost_gpu_is_refused() -> None:
    with pytest.raises(RunRefused, match="does not answer"):
        selected(cards=(gpu(0, healthy=False),))


def test_no_gpu_is_refused() -> None:
    with pytest.raises(RunRefused, match="has no GPU that NVML shows; see fracgpu doctor"):
        selected(cards=())
