"""CUDA arrays for the tests: descriptors, and copies between an array and the host."""

import struct
from typing import Any, Final

from tests.native.fake.cuda_process import OUT_U64, CudaProcess, memory, u64

LAYERED, SURFACE, CUBEMAP, GATHER, SPARSE, DEFERRED = 0x01, 0x02, 0x04, 0x08, 0x40, 0x80
UINT8, FLOAT, HALF, NV12, BC1, BC7 = 0x01, 0x20, 0x10, 0xB0, 0x91, 0x9D
TILE: Final = 65536


def descriptor(
    width: int, height: int = 0, depth: int = 0, *, kind: int = FLOAT, channels: int = 1, flags: int = 0
) -> list[Any]:
    """CUDA_ARRAY3D_DESCRIPTOR."""
    return memory(struct.pack("<QQQiII4x", width, height, depth, kind, channels, flags))


def create(cuda: CudaProcess, *extents: int, **what: int) -> int:
    return int(cuda.check("cuArray3DCreate_v2", OUT_U64, descriptor(*extents, **what))[0])


def create_mipmap(cuda: CudaProcess, levels: int, *extents: int, **what: int) -> int:
    return int(cuda.check("cuMipmappedArrayCreate", OUT_U64, descriptor(*extents, **what), ["u32", levels])[0])


def destroy(cuda: CudaProcess, array: int) -> None:
    cuda.check("cuArrayDestroy", u64(array))


# CUDA_MEMCPY3D: positions, and an array or host memory on each side.
COPY: Final = """
class Copy(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("src_x", "src_y", "src_z", "src_lod")] + [
        ("src_type", ctypes.c_int), ("src_host", ctypes.c_void_p), ("src_device", ctypes.c_uint64),
        ("src_array", ctypes.c_void_p), ("reserved0", ctypes.c_void_p), ("src_pitch", ctypes.c_size_t),
        ("src_height", ctypes.c_size_t)] + [
        (name, ctypes.c_size_t) for name in ("dst_x", "dst_y", "dst_z", "dst_lod")] + [
        ("dst_type", ctypes.c_int), ("dst_host", ctypes.c_void_p), ("dst_device", ctypes.c_uint64),
        ("dst_array", ctypes.c_void_p), ("reserved1", ctypes.c_void_p), ("dst_pitch", ctypes.c_size_t),
        ("dst_height", ctypes.c_size_t)] + [
        (name, ctypes.c_size_t) for name in ("width", "height", "depth")]
"""


def write(cuda: CudaProcess, array: int, content: bytes, *, box: tuple[int, int, int], at: tuple[int, int, int]) -> int:
    """Copy `content` (rows without gaps) to a box of bytes, rows and slices; returns the driver's answer."""
    return int(
        cuda.python(f"""{COPY}
data = ctypes.create_string_buffer(bytes.fromhex("{content.hex()}"), {len(content)})
copy = Copy(src_type=1, src_host=ctypes.addressof(data), src_pitch={box[0]}, src_height={box[1]}, dst_type=3,
            dst_array={array}, dst_x={at[0]}, dst_y={at[1]}, dst_z={at[2]}, width={box[0]}, height={box[1]},
            depth={box[2]})
result = cuda.cuMemcpy3D_v2(ctypes.byref(copy))
""")
    )


def read(cuda: CudaProcess, array: int, *, box: tuple[int, int, int], at: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    """The bytes of a box of an array, rows without gaps."""
    code, content = cuda.python(f"""{COPY}
data = ctypes.create_string_buffer({box[0] * box[1] * box[2]})
copy = Copy(src_type=3, src_array={array}, src_x={at[0]}, src_y={at[1]}, src_z={at[2]}, dst_type=1,
            dst_host=ctypes.addressof(data), dst_pitch={box[0]}, dst_height={box[1]}, width={box[0]}, height={box[1]},
            depth={box[2]})
result = [cuda.cuMemcpy3D_v2(ctypes.byref(copy)), data.raw.hex()]
""")
    assert code == 0, f"cuMemcpy3D_v2 returned {code}"
    return bytes.fromhex(content)


def requirements(cuda: CudaProcess, function: str, handle: int) -> tuple[int, int] | int:
    """(size, alignment) of an array, or the error."""
    reply = cuda.call(function, ["buffer", 32], u64(handle), ["i32", 0])
    if reply.rc:
        return reply.rc
    size, alignment = struct.unpack_from("<QQ", bytes.fromhex(reply.out[0]))
    return size, alignment
