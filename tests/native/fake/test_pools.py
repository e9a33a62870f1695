"""Stream-ordered memory: what a pool reserves, what it uses, and when it gives back."""

import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.native.fake.cuda_process import (
    INVALID_HANDLE,
    INVALID_VALUE,
    MIB,
    OUT_OF_MEMORY,
    OUT_U64,
    CudaProcess,
    i32,
    memory,
    u64,
)

Spawn = Callable[..., CudaProcess]
THRESHOLD, RESERVED, RESERVED_HIGH, USED, USED_HIGH = 4, 5, 6, 7, 8
GROWTH = 32 * MIB


def default_pool(cuda: CudaProcess) -> int:
    return int(cuda.check("cuDeviceGetDefaultMemPool", OUT_U64, i32(0))[0])


def attribute(cuda: CudaProcess, pool: int, number: int) -> int:
    return int(cuda.check("cuMemPoolGetAttribute", u64(pool), i32(number), OUT_U64)[0])


def set_attribute(cuda: CudaProcess, pool: int, number: int, value: int) -> None:
    cuda.check("cuMemPoolSetAttribute", u64(pool), i32(number), memory(struct.pack("<Q", value)))


def allocate(cuda: CudaProcess, size: int) -> int:
    return int(cuda.check("cuMemAllocAsync", OUT_U64, u64(size), u64(0))[0])


def new_pool(cuda: CudaProcess, device: int = 0) -> int:
    properties = memory(struct.pack("<iiiiQQ", 1, 0, 1, device, 0, 0) + bytes(56))
    return int(cuda.check("cuMemPoolCreate", OUT_U64, properties)[0])


def synchronize(cuda: CudaProcess) -> None:
    cuda.check("cuStreamSynchronize", u64(0))


def test_a_pool_starts_empty(cuda: CudaProcess) -> None:
    pool = default_pool(cuda)
    assert [attribute(cuda, pool, number) for number in range(THRESHOLD, USED_HIGH + 1)] == [0] * 5
    assert cuda.check("cuDeviceGetMemPool", OUT_U64, i32(0)) == [pool]


def test_memory_is_reserved_in_pieces_and_kept_until_a_synchronisation(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    pool = default_pool(cuda)
    address = allocate(cuda, 5 * MIB)
    assert (attribute(cuda, pool, RESERVED), attribute(cuda, pool, USED)) == (GROWTH, 5 * MIB)
    assert cuda.memory_info()[0] == free - GROWTH
    cuda.write(address, b"pool")
    assert cuda.read(address, 4) == b"pool"
    cuda.check("cuMemFreeAsync", u64(address), u64(0))
    assert (attribute(cuda, pool, RESERVED), attribute(cuda, pool, USED)) == (GROWTH, 0)
    assert cuda.memory_info()[0] == free - GROWTH
    synchronize(cuda)
    assert attribute(cuda, pool, RESERVED) == 0
    assert cuda.memory_info()[0] == free


def test_what_is_in_use_survives_a_synchronisation(cuda: CudaProcess) -> None:
    pool = default_pool(cuda)
    allocate(cuda, 5 * MIB)
    synchronize(cuda)
    assert attribute(cuda, pool, RESERVED) == GROWTH


def test_freed_memory_is_used_again(cuda: CudaProcess) -> None:
    first = allocate(cuda, 20 * MIB)
    cuda.check("cuMemFreeAsync", u64(first), u64(0))
    assert allocate(cuda, 20 * MIB) == first


def test_the_release_threshold_keeps_memory(cuda: CudaProcess) -> None:
    pool = default_pool(cuda)
    set_attribute(cuda, pool, THRESHOLD, 2**64 - 1)
    address = allocate(cuda, 40 * MIB)
    cuda.check("cuMemFreeAsync", u64(address), u64(0))
    synchronize(cuda)
    assert attribute(cuda, pool, RESERVED) == 64 * MIB
    cuda.check("cuMemPoolTrimTo", u64(pool), u64(0))
    assert attribute(cuda, pool, RESERVED) == 0


def test_high_water_marks(cuda: CudaProcess) -> None:
    pool = default_pool(cuda)
    address = allocate(cuda, 40 * MIB)
    cuda.check("cuMemFreeAsync", u64(address), u64(0))
    synchronize(cuda)
    assert (attribute(cuda, pool, RESERVED_HIGH), attribute(cuda, pool, USED_HIGH)) == (64 * MIB, 40 * MIB)
    set_attribute(cuda, pool, RESERVED_HIGH, 0)
    set_attribute(cuda, pool, USED_HIGH, 0)
    assert (attribute(cuda, pool, RESERVED_HIGH), attribute(cuda, pool, USED_HIGH)) == (0, 0)
    arguments = (u64(pool), i32(USED_HIGH), memory(struct.pack("<Q", 5)))
    assert cuda.call("cuMemPoolSetAttribute", *arguments).rc == INVALID_VALUE


def test_an_ordinary_free_takes_pool_memory(cuda: CudaProcess) -> None:
    pool = default_pool(cuda)
    cuda.free(allocate(cuda, MIB))
    assert attribute(cuda, pool, USED) == 0


def test_double_and_foreign_frees_are_refused(cuda: CudaProcess) -> None:
    address = allocate(cuda, MIB)
    cuda.check("cuMemFreeAsync", u64(address), u64(0))
    assert cuda.call("cuMemFreeAsync", u64(address), u64(0)).rc == INVALID_VALUE
    assert cuda.call("cuMemFreeAsync", u64(4096), u64(0)).rc == INVALID_VALUE
    assert cuda.call("cuMemAllocAsync", OUT_U64, u64(MIB), u64(0xBAD0)).rc == INVALID_HANDLE
    assert cuda.call("cuMemAllocAsync", ["null"], u64(MIB), u64(0)).rc == INVALID_VALUE


def test_own_pools(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    pool = new_pool(cuda)
    (address,) = cuda.check("cuMemAllocFromPoolAsync_ptsz", OUT_U64, u64(MIB), u64(pool), u64(0))
    assert cuda.check("cuPointerGetAttribute", OUT_U64, i32(17), u64(address)) == [pool]
    assert attribute(cuda, default_pool(cuda), RESERVED) == 0
    cuda.check("cuMemPoolDestroy", u64(pool))
    cuda.check("cuMemFreeAsync_ptsz", u64(address), u64(0))
    synchronize(cuda)
    assert cuda.memory_info()[0] == free


def test_a_destroyed_pool_lives_until_its_last_allocation(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start()
    free, _ = cuda.memory_info()
    pool = new_pool(cuda)
    (address,) = cuda.check("cuMemAllocFromPoolAsync", OUT_U64, u64(MIB), u64(pool), u64(0))
    cuda.check("cuMemPoolDestroy", u64(pool))
    assert cuda.call("cuMemPoolTrimTo", u64(pool), u64(0)).rc == INVALID_VALUE
    cuda.write(address, b"still")
    assert cuda.read(address, 5) == b"still"
    assert cuda.memory_info()[0] == free - GROWTH
    cuda.check("cuMemFreeAsync", u64(address), u64(0))
    assert cuda.memory_info()[0] == free


def test_the_default_pool_can_not_be_destroyed(cuda: CudaProcess) -> None:
    assert cuda.call("cuMemPoolDestroy", u64(default_pool(cuda))).rc == INVALID_VALUE


def test_a_device_can_have_another_pool(cuda: CudaProcess) -> None:
    pool = new_pool(cuda)
    cuda.check("cuDeviceSetMemPool", i32(0), u64(pool))
    allocate(cuda, MIB)
    assert attribute(cuda, pool, USED) == MIB
    assert cuda.check("cuDeviceGetMemPool", OUT_U64, i32(0)) == [pool]


def test_a_full_card_takes_back_what_pools_do_not_use(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start()
    pool = default_pool(cuda)
    set_attribute(cuda, pool, THRESHOLD, 2**64 - 1)
    cuda.check("cuMemFreeAsync", u64(allocate(cuda, 600 * MIB)), u64(0))
    other = new_pool(cuda)
    cuda.check("cuMemAllocFromPoolAsync", OUT_U64, u64(600 * MIB), u64(other), u64(0))
    assert attribute(cuda, pool, RESERVED) == 0
    assert cuda.call("cuMemAllocAsync", OUT_U64, u64(600 * MIB), u64(0)).rc == OUT_OF_MEMORY
    assert model.usage().peak_used_bytes <= 1024 * MIB


@pytest.mark.parametrize("release", ["cuDevicePrimaryCtxReset_v2", "cuDevicePrimaryCtxRelease_v2"])
def test_pools_go_with_the_primary_context(spawn: Spawn, model: Any, release: str) -> None:
    cuda = spawn().start()
    allocate(cuda, MIB)
    cuda.check(release, i32(0))
    assert model.usage().used_bytes == 0
