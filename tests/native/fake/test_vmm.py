"""Virtual memory management: physical memory lives until neither a handle nor a mapping refers to it."""

import struct
from typing import Any

import pytest

from tests.native.fake.cuda_process import (
    GRANULE,
    INVALID_DEVICE,
    INVALID_VALUE,
    MIB,
    OUT_OF_MEMORY,
    OUT_U64,
    CudaProcess,
    i32,
    memory,
    u64,
)

READ_WRITE, READ = 3, 1


def properties(device: int = 0) -> list[object]:
    """CUmemAllocationProp: pinned, no shareable handle, on a device."""
    return memory(struct.pack("<iiiiQQ", 1, 0, 1, device, 0, 0))


def access(flags: int, device: int = 0) -> list[object]:
    return memory(struct.pack("<iii", 1, device, flags))


def create(cuda: CudaProcess, size: int) -> int:
    return int(cuda.check("cuMemCreate", OUT_U64, u64(size), properties(), u64(0))[0])


def reserve(cuda: CudaProcess, size: int) -> int:
    return int(cuda.check("cuMemAddressReserve", OUT_U64, u64(size), u64(0), u64(0), u64(0))[0])


def map_memory(cuda: CudaProcess, address: int, size: int, handle: int) -> None:
    cuda.check("cuMemMap", u64(address), u64(size), u64(0), u64(handle), u64(0))


def test_the_granularity_is_two_mebibytes(cuda: CudaProcess) -> None:
    assert cuda.check("cuMemGetAllocationGranularity", OUT_U64, properties(), i32(0)) == [GRANULE]


def test_reserving_addresses_costs_nothing(cuda: CudaProcess) -> None:
    free, total = cuda.memory_info()
    address = reserve(cuda, total * 4)
    assert cuda.memory_info()[0] == free
    cuda.check("cuMemAddressFree", u64(address), u64(total * 4))


def test_the_life_of_a_mapping(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    handle = create(cuda, 4 * MIB)
    assert cuda.memory_info()[0] == free - 4 * MIB
    address = reserve(cuda, 8 * MIB)
    map_memory(cuda, address, 4 * MIB, handle)
    cuda.check("cuMemSetAccess", u64(address), u64(4 * MIB), access(READ_WRITE), u64(1))
    cuda.write(address, b"mapped")
    assert cuda.read(address, 6) == b"mapped"
    cuda.check("cuMemRelease", u64(handle))
    assert cuda.read(address, 6) == b"mapped"
    assert cuda.memory_info()[0] == free - 4 * MIB
    cuda.check("cuMemUnmap", u64(address), u64(4 * MIB))
    assert cuda.memory_info()[0] == free
    cuda.check("cuMemAddressFree", u64(address), u64(8 * MIB))


def test_a_retained_handle_keeps_the_memory(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    handle = create(cuda, GRANULE)
    address = reserve(cuda, GRANULE)
    map_memory(cuda, address, GRANULE, handle)
    (again,) = cuda.check("cuMemRetainAllocationHandle", OUT_U64, u64(address))
    assert again == handle
    cuda.check("cuMemRelease", u64(handle))
    cuda.check("cuMemUnmap", u64(address), u64(GRANULE))
    assert cuda.memory_info()[0] == free - GRANULE
    cuda.check("cuMemRelease", u64(handle))
    assert cuda.memory_info()[0] == free
    assert cuda.call("cuMemRelease", u64(handle)).rc == INVALID_VALUE


def test_the_same_memory_at_two_addresses(cuda: CudaProcess) -> None:
    handle = create(cuda, GRANULE)
    first, second = reserve(cuda, GRANULE), reserve(cuda, GRANULE)
    for address in (first, second):
        map_memory(cuda, address, GRANULE, handle)
        cuda.check("cuMemSetAccess", u64(address), u64(GRANULE), access(READ_WRITE), u64(1))
    cuda.write(first, b"alias")
    assert cuda.read(second, 5) == b"alias"


def test_neighbouring_mappings_are_one_buffer(cuda: CudaProcess) -> None:
    address = reserve(cuda, 2 * GRANULE)
    for part in range(2):
        map_memory(cuda, address + part * GRANULE, GRANULE, create(cuda, GRANULE))
    cuda.check("cuMemSetAccess", u64(address), u64(2 * GRANULE), access(READ_WRITE), u64(1))
    cuda.write(address + GRANULE - 3, b"across")
    assert cuda.read(address + GRANULE - 3, 6) == b"across"


def test_access_must_be_granted(cuda: CudaProcess) -> None:
    handle = create(cuda, GRANULE)
    address = reserve(cuda, GRANULE)
    map_memory(cuda, address, GRANULE, handle)
    assert cuda.check("cuMemGetAccess", OUT_U64, memory(struct.pack("<ii", 1, 0)), u64(address)) == [0]
    assert cuda.call("cuMemsetD8_v2", u64(address), ["u32", 1], u64(1)).rc != 0
    cuda.check("cuMemSetAccess", u64(address), u64(GRANULE), access(READ_WRITE), u64(1))
    assert cuda.check("cuMemGetAccess", OUT_U64, memory(struct.pack("<ii", 1, 0)), u64(address)) == [READ_WRITE]
    cuda.check("cuMemsetD8_v2", u64(address), ["u32", 1], u64(1))


def test_the_card_can_be_full(cuda: CudaProcess) -> None:
    _, total = cuda.memory_info()
    size = (total // GRANULE + 1) * GRANULE
    assert cuda.call("cuMemCreate", OUT_U64, u64(size), properties(), u64(0)).rc == OUT_OF_MEMORY


@pytest.mark.parametrize("size", [0, 1, GRANULE + 1], ids=str)
def test_sizes_that_are_no_multiple_are_refused(cuda: CudaProcess, size: int) -> None:
    assert cuda.call("cuMemCreate", OUT_U64, u64(size), properties(), u64(0)).rc == INVALID_VALUE
    assert cuda.call("cuMemAddressReserve", OUT_U64, u64(size), u64(0), u64(0), u64(0)).rc == INVALID_VALUE


def test_bad_handles_and_addresses_are_refused(cuda: CudaProcess) -> None:
    handle = create(cuda, GRANULE)
    address = reserve(cuda, 2 * GRANULE)

    def refused(name: str, *arguments: list[Any]) -> bool:
        return cuda.call(name, *arguments).rc == INVALID_VALUE

    assert cuda.call("cuMemCreate", OUT_U64, u64(GRANULE), properties(device=9), u64(0)).rc == INVALID_DEVICE
    assert refused("cuMemCreate", OUT_U64, u64(GRANULE), ["null"], u64(0))
    assert refused("cuMemMap", u64(address + GRANULE), u64(2 * GRANULE), u64(0), u64(handle), u64(0))
    map_memory(cuda, address, GRANULE, handle)
    assert refused("cuMemMap", u64(address), u64(GRANULE), u64(0), u64(handle), u64(0))
    assert refused("cuMemAddressFree", u64(address), u64(2 * GRANULE))
    assert refused("cuMemUnmap", u64(address), u64(GRANULE // 2))
    assert refused("cuMemUnmap", u64(address), u64(2 * GRANULE))
    assert refused("cuMemRetainAllocationHandle", OUT_U64, u64(4096))
    cuda.check("cuMemUnmap", u64(address), u64(GRANULE))
    cuda.check("cuMemAddressFree", u64(address), u64(2 * GRANULE))
    assert refused("cuMemAddressFree", u64(address), u64(2 * GRANULE))
