"""Memory of another API: imported from a file descriptor, mapped as a buffer or as a mipmapped array, never charged."""

import struct
from typing import Any

import pytest

from tests.native.fake.arrays import UINT8, create, descriptor, read, write
from tests.native.fake.cuda_process import (
    INVALID_HANDLE,
    INVALID_VALUE,
    MIB,
    NOT_SUPPORTED,
    OUT_U64,
    CudaProcess,
    memory,
    u64,
)

OPAQUE_FD = 1


def exported(cuda: CudaProcess, size: int) -> int:
    """A descriptor of memory as another API exports it, in that process, which keeps a view of its own."""
    return int(
        cuda.python(f"""
import mmap
result = os.memfd_create("exported")
os.ftruncate(result, {size})
exporter = mmap.mmap(result, {size})
""")
    )


def imported(cuda: CudaProcess, size: int, fd: int | None = None, kind: int = OPAQUE_FD) -> Any:
    """The driver's answer to an import: (code, handle)."""
    fd = exported(cuda, size) if fd is None else fd
    desc = memory(struct.pack("<i4xi12xQI64x4x", kind, fd, size, 0))
    reply = cuda.call("cuImportExternalMemory", OUT_U64, desc)
    return reply.rc, reply.out[0]


def buffer_of(cuda: CudaProcess, external: int, offset: int, size: int) -> Any:
    desc = memory(struct.pack("<QQI64x4x", offset, size, 0))
    reply = cuda.call("cuExternalMemoryGetMappedBuffer", OUT_U64, u64(external), desc)
    return reply.rc, reply.out[0]


def mipmap_of(cuda: CudaProcess, external: int, offset: int, *extents: int, levels: int = 1) -> Any:
    shape = bytes.fromhex(descriptor(*extents, kind=UINT8)[1])
    desc = memory(struct.pack("<Q", offset) + shape + struct.pack("<I64x4x", levels))
    reply = cuda.call("cuExternalMemoryGetMappedMipmappedArray", OUT_U64, u64(external), desc)
    return reply.rc, reply.out[0]


def test_imported_memory_is_the_exporters(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    code, external = imported(cuda, 64 * MIB)
    assert code == 0
    code, address = buffer_of(cuda, external, 4096, 32 * MIB)
    assert code == 0
    assert cuda.memory_info()[0] == free
    cuda.write(address + 1, b"from CUDA")
    assert cuda.python("result = exporter[4097:4106].decode()") == "from CUDA"
    cuda.python("exporter[4097:4106] = b'from afar'; result = 0")
    assert cuda.read(address + 1, 9) == b"from afar"
    # What is mapped outlives the import, and is freed like memory.
    cuda.check("cuDestroyExternalMemory", u64(external))
    assert cuda.read(address + 1, 9) == b"from afar"
    cuda.free(address)
    assert cuda.call("cuMemFree_v2", u64(address)).rc == INVALID_VALUE
    assert cuda.memory_info()[0] == free
    assert cuda.call("cuDestroyExternalMemory", u64(external)).rc == INVALID_HANDLE


def test_an_imported_mipmap(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    _, external = imported(cuda, 4 * MIB)
    code, mipmap = mipmap_of(cuda, external, 2 * MIB, 1024, 1024, levels=3)
    assert code == 0
    (level,) = cuda.check("cuMipmappedArrayGetLevel", OUT_U64, u64(mipmap), ["u32", 0])
    assert write(cuda, level, b"texel", box=(5, 1, 1), at=(0, 0, 0)) == 0
    assert cuda.python(f"result = exporter[{2 * MIB}:{2 * MIB + 5}].decode()") == "texel"
    cuda.check("cuDestroyExternalMemory", u64(external))
    assert read(cuda, level, box=(5, 1, 1)) == b"texel"
    cuda.check("cuMipmappedArrayDestroy", u64(mipmap))
    assert cuda.memory_info()[0] == free


def test_what_is_mapped_dies_with_its_context(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    (context,) = cuda.check("cuCtxCreate_v2", OUT_U64, ["u32", 0], ["u32", 0])
    _, external = imported(cuda, 4 * MIB)
    buffer_of(cuda, external, 0, MIB)
    mipmap_of(cuda, external, 0, 64, 64)
    cuda.check("cuCtxDestroy_v2", u64(context))
    assert cuda.memory_info()[0] == free


def test_what_can_not_be_imported_or_mapped(cuda: CudaProcess) -> None:
    fd = exported(cuda, MIB)
    assert imported(cuda, 2 * MIB, fd)[0] == INVALID_VALUE
    assert imported(cuda, 0, fd)[0] == INVALID_VALUE
    assert imported(cuda, MIB, 12345)[0] == INVALID_VALUE
    assert imported(cuda, MIB, fd, kind=10)[0] == INVALID_VALUE
    assert imported(cuda, MIB, fd, kind=8)[0] == NOT_SUPPORTED
    code, external = imported(cuda, MIB, fd)
    assert code == 0
    assert buffer_of(cuda, external, 0, MIB + 1)[0] == INVALID_VALUE
    assert buffer_of(cuda, external, MIB, 1)[0] == INVALID_VALUE
    assert buffer_of(cuda, external, 1, 4096)[0] == INVALID_VALUE
    assert buffer_of(cuda, external + 8, 0, MIB)[0] == INVALID_HANDLE
    assert mipmap_of(cuda, external, 0, 4096, 4096)[0] == INVALID_VALUE
    assert mipmap_of(cuda, external + 8, 0, 16, 16)[0] == INVALID_HANDLE


@pytest.mark.parametrize("name", ["Tex", "Surf"])
def test_texture_and_surface_objects_are_names(cuda: CudaProcess, name: str) -> None:
    array = create(cuda, 64, 64, flags=2)
    free, _ = cuda.memory_info()
    extra = [] if name == "Surf" else [memory(bytes(104)), ["null"]]
    resource = struct.pack("<i4xQ", 0, array).ljust(144, b"\0")
    (made,) = cuda.check(f"cu{name}ObjectCreate", OUT_U64, memory(resource), *extra)
    (raw,) = cuda.check(f"cu{name}ObjectGetResourceDesc", ["buffer", 144], u64(made))
    assert bytes.fromhex(raw) == resource
    cuda.check(f"cu{name}ObjectDestroy", u64(made))
    assert cuda.call(f"cu{name}ObjectDestroy", u64(made)).rc == INVALID_VALUE
    bad = memory(struct.pack("<i4xQ", 0, array + 8).ljust(144, b"\0"))
    assert cuda.call(f"cu{name}ObjectCreate", OUT_U64, bad, *extra).rc == INVALID_VALUE
    assert cuda.memory_info()[0] == free


def test_a_surface_needs_an_array_made_for_it(cuda: CudaProcess) -> None:
    plain = memory(struct.pack("<i4xQ", 0, create(cuda, 64, 64)).ljust(144, b"\0"))
    assert cuda.call("cuSurfObjectCreate", OUT_U64, plain).rc == INVALID_VALUE
    texture = cuda.check("cuTexObjectCreate", OUT_U64, plain, memory(bytes(104)), ["null"])
    assert texture != [0]


def test_a_texture_of_plain_memory(cuda: CudaProcess) -> None:
    address = cuda.allocate(MIB)
    linear = struct.pack("<i4xQiIQ", 2, address, 0x20, 1, MIB).ljust(144, b"\0")
    pitched = struct.pack("<i4xQiIQQQ", 3, address, 0x20, 1, 64, 64, 512).ljust(144, b"\0")
    for resource in (linear, pitched):
        cuda.check("cuTexObjectCreate", OUT_U64, memory(resource), memory(bytes(104)), ["null"])
    unknown = struct.pack("<i4xQiIQ", 2, 4096, 0x20, 1, MIB).ljust(144, b"\0")
    assert cuda.call("cuTexObjectCreate", OUT_U64, memory(unknown), memory(bytes(104)), ["null"]).rc == INVALID_VALUE
