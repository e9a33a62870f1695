"""CUDA arrays and mipmapped arrays: what they cost, what the driver says of them, and that bytes go through them."""

import struct
from typing import Any

import pytest

from tests.native.fake.arrays import (
    BC1,
    CUBEMAP,
    DEFERRED,
    GATHER,
    HALF,
    LAYERED,
    NV12,
    SPARSE,
    SURFACE,
    UINT8,
    create,
    create_mipmap,
    descriptor,
    destroy,
    read,
    requirements,
    write,
)
from tests.native.fake.cuda_process import (
    INVALID_HANDLE,
    INVALID_VALUE,
    MIB,
    OUT_OF_MEMORY,
    OUT_U64,
    CudaProcess,
    buffer,
    memory,
    u32,
    u64,
)


def described(cuda: CudaProcess, array: int) -> tuple[Any, ...]:
    """(width, height, depth, format, channels, flags)."""
    (raw,) = cuda.check("cuArray3DGetDescriptor_v2", buffer(40), u64(array))
    return struct.unpack("<QQQiII4x", bytes.fromhex(raw))


def test_an_array_takes_memory_until_it_is_destroyed(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    array = create(cuda, 2048, 2048, channels=4)
    assert cuda.memory_info()[0] == free - 64 * MIB
    destroy(cuda, array)
    assert cuda.memory_info()[0] == free
    assert cuda.call("cuArrayDestroy", u64(array)).rc == INVALID_HANDLE


def test_small_arrays_share_a_granule(cuda: CudaProcess) -> None:
    create(cuda, 8, 8)
    before, _ = cuda.memory_info()
    for _ in range(10):
        create(cuda, 64, 64)
    assert cuda.memory_info()[0] == before


def test_a_card_that_is_full_has_no_array(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    reply = cuda.call("cuArray3DCreate_v2", OUT_U64, descriptor(16384, 16384, 64, channels=4))
    assert (reply.rc, reply.out) == (OUT_OF_MEMORY, [0])
    assert cuda.memory_info()[0] == free


@pytest.mark.parametrize(
    ("extents", "what", "size"),
    [
        ((65536,), {"kind": UINT8, "flags": 0}, None),
        ((512, 512), {}, 512 * 512 * 4),
        ((512, 512), {"kind": HALF, "channels": 4}, 512 * 512 * 8),
        ((512, 512, 6), {"flags": CUBEMAP}, 6 * 512 * 512 * 4),
        ((512, 512, 12), {"flags": CUBEMAP | LAYERED}, 12 * 512 * 512 * 4),
        ((512, 512, 5), {"flags": LAYERED}, 5 * 512 * 512 * 4),
        ((128, 128, 128), {"kind": UINT8}, 128**3),
        ((1024, 1024), {"kind": BC1, "channels": 4}, 1024 * 1024 // 2),
        ((1024, 1024), {"kind": NV12}, 1024 * 1024 * 3 // 2),
        # 65 bytes are two columns of blocks, 9 rows one block of 16.
        ((65, 9), {"kind": UINT8}, 65536),
        ((4096 + 1, 1024), {"kind": UINT8}, (4096 + 64) * 1024),
    ],
)
def test_what_the_driver_says_an_array_needs(
    cuda: CudaProcess, extents: tuple[int, ...], what: dict[str, int], size: int | None
) -> None:
    """Only an array that will be mapped by the program has an answer, and it takes nothing meanwhile."""
    free, _ = cuda.memory_info()
    ordinary = create(cuda, *extents, **what)
    assert requirements(cuda, "cuArrayGetMemoryRequirements", ordinary) == INVALID_VALUE
    destroy(cuda, ordinary)
    deferred = {**what, "flags": what.get("flags", 0) | DEFERRED}
    if size is None:
        assert cuda.call("cuArray3DCreate_v2", OUT_U64, descriptor(*extents, **deferred)).rc == INVALID_VALUE
        return
    array = create(cuda, *extents, **deferred)
    assert requirements(cuda, "cuArrayGetMemoryRequirements", array) == (size, 65536)
    assert cuda.memory_info()[0] == free


def test_descriptors_in_every_spelling(cuda: CudaProcess) -> None:
    array = create(cuda, 100, 60, channels=2, flags=SURFACE)
    assert described(cuda, array) == (100, 60, 0, 0x20, 2, SURFACE)
    (raw,) = cuda.check("cuArrayGetDescriptor_v2", buffer(24), u64(array))
    assert struct.unpack("<QQiI", bytes.fromhex(raw)) == (100, 60, 0x20, 2)
    (raw,) = cuda.check("cuArrayGetDescriptor", buffer(16), u64(array))
    assert struct.unpack("<IIiI", bytes.fromhex(raw)) == (100, 60, 0x20, 2)
    (raw,) = cuda.check("cuArray3DGetDescriptor", buffer(24), u64(array))
    assert struct.unpack("<IIIiII", bytes.fromhex(raw)) == (100, 60, 0, 0x20, 2, SURFACE)
    for name, layout, values in (
        ("cuArrayCreate", "<IIiI", (7, 0, UINT8, 4)),
        ("cuArrayCreate_v2", "<QQiI", (7, 0, UINT8, 4)),
        ("cuArray3DCreate", "<IIIiII", (7, 0, 0, UINT8, 4, 0)),
    ):
        (array,) = cuda.check(name, OUT_U64, memory(struct.pack(layout, *values)))
        assert described(cuda, array) == (7, 0, 0, UINT8, 4, 0)
        destroy(cuda, array)


@pytest.mark.parametrize(
    ("extents", "what"),
    [
        ((0, 5), {}),
        ((5, 0, 5), {}),
        ((5, 5), {"channels": 3}),
        ((5, 5), {"kind": 0x7E}),
        ((5, 5), {"flags": LAYERED}),
        ((5, 6, 6), {"flags": CUBEMAP}),
        ((6, 6, 12), {"flags": CUBEMAP}),
        ((6, 6, 6), {"flags": GATHER}),
        ((6, 6), {"flags": 0x1000}),
        ((1 << 20, 1), {}),
        ((6,), {"flags": SPARSE}),
    ],
)
def test_what_can_not_be_an_array(cuda: CudaProcess, extents: tuple[int, ...], what: dict[str, int]) -> None:
    assert cuda.call("cuArray3DCreate_v2", OUT_U64, descriptor(*extents, **what)).rc == INVALID_VALUE
    assert cuda.call("cuMipmappedArrayCreate", OUT_U64, descriptor(*extents, **what), u32(1)).rc == INVALID_VALUE


def test_bytes_go_through_an_array(cuda: CudaProcess) -> None:
    array = create(cuda, 20, 10, 4, kind=UINT8)
    content = bytes(range(5 * 3 * 2))
    assert write(cuda, array, content, box=(5, 3, 2), at=(15, 7, 2)) == 0
    assert read(cuda, array, box=(5, 3, 2), at=(15, 7, 2)) == content
    assert read(cuda, array, box=(20, 1, 1), at=(0, 9, 3)) == bytes(15) + content[25:30]
    assert write(cuda, array, content, box=(5, 3, 2), at=(16, 7, 2)) == INVALID_VALUE
    assert write(cuda, array, content, box=(5, 3, 2), at=(15, 8, 2)) == INVALID_VALUE
    assert write(cuda, array, content, box=(5, 3, 2), at=(15, 7, 3)) == INVALID_VALUE
    assert write(cuda, array + 8, content, box=(5, 3, 2), at=(15, 7, 3)) == INVALID_HANDLE


def test_layers_are_apart(cuda: CudaProcess) -> None:
    array = create(cuda, 4, 4, 3, kind=UINT8, flags=LAYERED)
    for layer in range(3):
        assert write(cuda, array, bytes([layer + 1]) * 16, box=(4, 4, 1), at=(0, 0, layer)) == 0
    assert read(cuda, array, box=(4, 4, 3)) == b"\1" * 16 + b"\2" * 16 + b"\3" * 16


def test_the_planes_of_a_planar_format(cuda: CudaProcess) -> None:
    array = create(cuda, 8, 4, kind=NV12)
    planes = [cuda.check("cuArrayGetPlane", OUT_U64, u64(array), u32(index))[0] for index in (0, 1)]
    assert [described(cuda, plane)[:5] for plane in planes] == [(8, 4, 0, UINT8, 1), (4, 2, 0, UINT8, 2)]
    assert cuda.call("cuArrayGetPlane", OUT_U64, u64(array), u32(2)).rc == INVALID_VALUE
    assert cuda.call("cuArrayGetPlane", OUT_U64, u64(create(cuda, 8, 8)), u32(0)).rc == INVALID_VALUE
    assert write(cuda, planes[1], b"chroma--" * 2, box=(8, 2, 1), at=(0, 0, 0)) == 0
    assert read(cuda, planes[1], box=(8, 2, 1)) == b"chroma--" * 2
    assert read(cuda, planes[0], box=(8, 4, 1)) == bytes(32)
    assert cuda.call("cuArrayDestroy", u64(planes[0])).rc == INVALID_HANDLE
    destroy(cuda, array)
    assert cuda.call("cuArray3DGetDescriptor_v2", buffer(40), u64(planes[0])).rc == INVALID_HANDLE


def test_the_levels_of_a_mipmap(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    mipmap = create_mipmap(cuda, 99, 1024, 512, channels=4)
    taken = free - cuda.memory_info()[0]
    # A chain is a third more than its largest level.
    assert 8 * MIB * 4 / 3 <= taken <= 8 * MIB * 4 / 3 + 2 * MIB
    extents = []
    for level in range(11):
        (array,) = cuda.check("cuMipmappedArrayGetLevel", OUT_U64, u64(mipmap), u32(level))
        extents.append(described(cuda, array)[:2])
        assert cuda.call("cuArrayDestroy", u64(array)).rc == INVALID_HANDLE
        assert write(cuda, array, bytes([level]) * 16, box=(16, 1, 1), at=(0, 0, 0)) == 0
    assert extents == [(max(1, 1024 >> level), max(1, 512 >> level)) for level in range(11)]
    assert cuda.call("cuMipmappedArrayGetLevel", OUT_U64, u64(mipmap), u32(11)).rc == INVALID_VALUE
    assert read(cuda, array, box=(16, 1, 1)) == bytes([10]) * 16
    cuda.check("cuMipmappedArrayDestroy", u64(mipmap))
    assert cuda.memory_info()[0] == free
    assert cuda.call("cuMipmappedArrayDestroy", u64(mipmap)).rc == INVALID_HANDLE
    assert cuda.call("cuArray3DGetDescriptor_v2", buffer(40), u64(array)).rc == INVALID_HANDLE


def test_arrays_die_with_their_context(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    (context,) = cuda.check("cuCtxCreate_v2", OUT_U64, u32(0), u32(0))
    array = create(cuda, 2048, 2048)
    create(cuda, 8, 8)
    create_mipmap(cuda, 5, 2048, 2048)
    cuda.check("cuCtxDestroy_v2", u64(context))
    assert cuda.memory_info()[0] == free
    assert cuda.call("cuArrayDestroy", u64(array)).rc == INVALID_HANDLE


def test_an_array_needs_a_context(spawn: Any) -> None:
    cuda = spawn()
    cuda.check("cuInit", u32(0))
    assert cuda.call("cuArray3DCreate_v2", OUT_U64, descriptor(8, 8)).rc == 201
