"""Sparse arrays and arrays with deferred mapping: they take nothing, and hold what is mapped onto them."""

import struct
from typing import Any

import pytest

from tests.native.fake.arrays import (
    DEFERRED,
    LAYERED,
    SPARSE,
    TILE,
    UINT8,
    create,
    create_mipmap,
    destroy,
    read,
    requirements,
    write,
)
from tests.native.fake.cuda_process import INVALID_VALUE, MIB, OUT_U64, CudaProcess, buffer, memory, u32, u64

ARRAY, MIPMAP = 0, 1
LEVEL, TAIL = 0, 1
MAP, UNMAP = 1, 2


def tile_pool(cuda: CudaProcess, size: int, usage: int = 1) -> int:
    """Physical memory that arrays can be mapped onto."""
    prop = memory(struct.pack("<iiiiQBBH4x", 1, 0, 1, 0, 0, 0, 0, usage))
    return int(cuda.check("cuMemCreate", OUT_U64, u64(size), prop, u64(0))[0])


def part(
    level: int = 0, layer: int = 0, at: tuple[int, int, int] = (0, 0, 0), size: tuple[int, int, int] = (0, 0, 1)
) -> bytes:
    return struct.pack("<8I", level, layer, *at, *size)


def tail(layer: int, offset: int, size: int) -> bytes:
    return struct.pack("<I4xQQ8x", layer, offset, size)


def info(
    handle: int,
    where: bytes,
    pool: int,
    *,
    kind: int = ARRAY,
    sub: int = LEVEL,
    operation: int = MAP,
    offset: int = 0,
    device: int = 0,
) -> bytes:
    """CUarrayMapInfo."""
    head = struct.pack("<i4xQi4x", kind, handle, sub)
    return head + where + struct.pack("<iiQQIIII", operation, 0, pool, offset, 1 << device, 0, 0, 0)


def map_tiles(cuda: CudaProcess, *entries: bytes, suffix: str = "") -> int:
    return cuda.call(f"cuMemMapArrayAsync{suffix}", memory(b"".join(entries)), u32(len(entries)), u64(0)).rc


def properties(cuda: CudaProcess, function: str, handle: int) -> tuple[Any, ...] | int:
    """(tile extent, first level of the tail, bytes of the tail, flags), or the error."""
    reply = cuda.call(function, buffer(48), u64(handle))
    if reply.rc:
        return reply.rc
    *tile, first, size, flags = struct.unpack_from("<IIIIQI", bytes.fromhex(reply.out[0]))
    return tuple(tile), first, size, flags


def test_the_tiles_of_a_sparse_array(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    flat = create(cuda, 1000, 500, kind=UINT8, flags=SPARSE)
    deep = create(cuda, 64, 64, 64, channels=4, flags=SPARSE)
    small = create(cuda, 100, 100, kind=UINT8, flags=SPARSE)
    plain = create(cuda, 100, 100)
    function = "cuArrayGetSparseProperties"
    assert properties(cuda, function, flat) == ((256, 256, 1), 0, 0, 0)
    assert properties(cuda, function, deep) == ((16, 16, 16), 0, 0, 0)
    assert properties(cuda, function, small) == ((256, 256, 1), 0, TILE, 1)
    assert properties(cuda, function, plain) == INVALID_VALUE
    assert requirements(cuda, "cuArrayGetMemoryRequirements", flat) == INVALID_VALUE
    destroy(cuda, plain)
    assert cuda.memory_info()[0] == free


def test_the_tail_of_a_sparse_mipmap(cuda: CudaProcess) -> None:
    mipmap = create_mipmap(cuda, 12, 2048, 2048, kind=UINT8, flags=SPARSE)
    tile, first, size, flags = properties(cuda, "cuMipmappedArrayGetSparseProperties", mipmap)  # type: ignore[misc]
    # Levels of 2048, 1024, 512 and 256 are made of tiles; 128 and below share the tail.
    assert (tile, first, flags) == ((256, 256, 1), 4, 0)
    assert size % TILE == 0
    assert size >= 128 * 128 * 4 / 3
    (level,) = cuda.check("cuMipmappedArrayGetLevel", OUT_U64, u64(mipmap), u32(0))
    assert properties(cuda, "cuArrayGetSparseProperties", level) == INVALID_VALUE


@pytest.mark.parametrize("suffix", ["", "_ptsz"])
def test_a_tile_holds_the_memory_that_is_mapped_there(cuda: CudaProcess, suffix: str) -> None:
    free, _ = cuda.memory_info()
    array = create(cuda, 512, 512, kind=UINT8, flags=SPARSE)
    pool = tile_pool(cuda, 2 * MIB)
    first, second = part(size=(256, 256, 1)), part(at=(256, 0, 0), size=(256, 256, 1))
    assert map_tiles(cuda, info(array, first, pool), info(array, second, pool, offset=TILE), suffix=suffix) == 0
    cuda.check("cuMemRelease", u64(pool))
    assert cuda.memory_info()[0] == free - 2 * MIB
    assert map_tiles(cuda, info(array, first, 0, operation=UNMAP), suffix=suffix) == 0
    assert cuda.memory_info()[0] == free - 2 * MIB
    assert map_tiles(cuda, info(array, second, 0, operation=UNMAP), suffix=suffix) == 0
    assert cuda.memory_info()[0] == free


def test_mapping_anew_lets_go_of_what_was_there(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    array = create(cuda, 256, 256, 2, kind=UINT8, flags=SPARSE | LAYERED)
    whole = part(layer=1, size=(256, 256, 1))
    for _ in range(3):
        pool = tile_pool(cuda, 2 * MIB)
        assert map_tiles(cuda, info(array, whole, pool)) == 0
        cuda.check("cuMemRelease", u64(pool))
        assert cuda.memory_info()[0] == free - 2 * MIB
    destroy(cuda, array)
    assert cuda.memory_info()[0] == free


def test_levels_and_tail_of_a_mipmap_are_mapped(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    mipmap = create_mipmap(cuda, 12, 1024, 1024, kind=UINT8, flags=SPARSE)
    pool = tile_pool(cuda, 2 * MIB)
    level = info(mipmap, part(level=1, at=(256, 256, 0), size=(256, 256, 1)), pool, kind=MIPMAP)
    rest = info(mipmap, tail(0, 0, TILE), pool, kind=MIPMAP, sub=TAIL, offset=TILE)
    assert map_tiles(cuda, level, rest) == 0
    assert map_tiles(cuda, info(mipmap, tail(0, TILE, TILE), pool, kind=MIPMAP, sub=TAIL)) == INVALID_VALUE
    cuda.check("cuMemRelease", u64(pool))
    cuda.check("cuMipmappedArrayDestroy", u64(mipmap))
    assert cuda.memory_info()[0] == free


def test_deferred_mapping_is_of_the_whole_array(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    array = create(cuda, 1024, 1024, channels=2, flags=DEFERRED)
    size, _ = requirements(cuda, "cuArrayGetMemoryRequirements", array)  # type: ignore[misc]
    assert size == 8 * MIB
    small = tile_pool(cuda, size // 2)
    assert map_tiles(cuda, info(array, part(), small)) == INVALID_VALUE
    pool = tile_pool(cuda, size)
    assert map_tiles(cuda, info(array, part(), pool)) == 0
    for handle in (pool, small):
        cuda.check("cuMemRelease", u64(handle))
    assert cuda.memory_info()[0] == free - size
    assert write(cuda, array, b"deferred", box=(8, 1, 1), at=(8184, 1023, 0)) == 0
    assert read(cuda, array, box=(8, 1, 1), at=(8184, 1023, 0)) == b"deferred"
    destroy(cuda, array)
    assert cuda.memory_info()[0] == free


def test_what_can_not_be_mapped(cuda: CudaProcess) -> None:
    array = create(cuda, 512, 512, kind=UINT8, flags=SPARSE)
    mipmap = create_mipmap(cuda, 12, 1024, 1024, kind=UINT8, flags=SPARSE)
    (level,) = cuda.check("cuMipmappedArrayGetLevel", OUT_U64, u64(mipmap), u32(0))
    pool, ordinary = tile_pool(cuda, 2 * MIB), tile_pool(cuda, 2 * MIB, usage=0)
    tile = part(size=(256, 256, 1))
    good = info(array, tile, pool)
    for bad in (
        info(array, tile, ordinary),
        info(array, tile, pool + 99),
        info(array, tile, pool, offset=2 * MIB),
        info(array, tile, pool, offset=4096),
        info(array, tile, pool, operation=UNMAP),
        info(array, tile, pool, operation=3),
        info(array, tile, pool, device=1),
        info(array, tile, pool, kind=MIPMAP),
        info(array, part(size=(255, 256, 1)), pool),
        info(array, part(at=(1, 0, 0), size=(256, 256, 1)), pool),
        info(array, part(at=(512, 0, 0), size=(256, 256, 1)), pool),
        info(array, part(layer=1, size=(256, 256, 1)), pool),
        info(array, part(level=1, size=(256, 256, 1)), pool),
        info(level, tile, pool),
        info(create(cuda, 512, 512), tile, pool),
    ):
        # Of a list with one bad entry nothing is mapped.
        assert map_tiles(cuda, good, bad) == INVALID_VALUE
    free, _ = cuda.memory_info()
    cuda.check("cuMemRelease", u64(pool))
    assert cuda.memory_info()[0] == free + 2 * MIB
