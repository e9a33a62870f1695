"""Allocation, accounting, errors, addresses, and that bytes go where they are copied."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.native.fake.cuda_process import (
    GRANULE,
    INVALID_CONTEXT,
    INVALID_HANDLE,
    INVALID_VALUE,
    MIB,
    NULL,
    OUT_I32,
    OUT_OF_MEMORY,
    OUT_U32,
    OUT_U64,
    SUCCESS,
    CudaProcess,
    buffer,
    i32,
    memory,
    u32,
    u64,
)

Spawn = Callable[..., CudaProcess]
CONTEXT = 16 * MIB


def test_an_allocation_lowers_free_by_whole_granules(cuda: CudaProcess) -> None:
    before, total = cuda.memory_info()
    address = cuda.allocate(5 * MIB)
    assert cuda.memory_info() == (before - 6 * MIB, total)
    cuda.free(address)
    assert cuda.memory_info() == (before, total)


def test_small_allocations_share_a_granule(cuda: CudaProcess) -> None:
    cuda.allocate(1)
    before, _ = cuda.memory_info()
    addresses = [cuda.allocate(1000) for _ in range(100)]
    assert cuda.memory_info()[0] == before
    assert len(set(addresses)) == 100
    assert all(address % 512 == 0 for address in addresses)


def test_the_context_costs_what_the_machine_says(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start()
    assert cuda.memory_info() == (1024 * MIB - CONTEXT, 1024 * MIB)
    assert model.usage().used_bytes == CONTEXT
    assert model.usage(1).used_bytes == 0


def test_a_refused_allocation_changes_nothing(cuda: CudaProcess) -> None:
    before = cuda.memory_info()
    reply = cuda.call("cuMemAlloc_v2", OUT_U64, u64(before[1] * 2))
    assert (reply.rc, reply.out) == (OUT_OF_MEMORY, [0])
    assert cuda.memory_info() == before


def test_memory_can_be_filled_to_the_last_granule(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start()
    free, _ = cuda.memory_info()
    address = cuda.allocate(free)
    assert cuda.memory_info()[0] == 0
    assert cuda.call("cuMemAlloc_v2", OUT_U64, u64(1)).rc == OUT_OF_MEMORY
    cuda.free(address)
    assert cuda.memory_info()[0] == free
    assert model.usage().peak_used_bytes == 1024 * MIB


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 2**48], ids=hex)
def test_absurd_sizes_are_out_of_memory(cuda: CudaProcess, size: int) -> None:
    assert cuda.call("cuMemAlloc_v2", OUT_U64, u64(size)).rc == OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cuMemAlloc_v2", [OUT_U64, u64(0)]),
        ("cuMemAlloc_v2", [NULL, u64(512)]),
        ("cuMemAllocManaged", [OUT_U64, u64(512), u32(9)]),
        ("cuMemAllocManaged", [OUT_U64, u64(0), u32(1)]),
        ("cuMemAllocPitch_v2", [OUT_U64, OUT_U64, u64(64), u64(4), u32(3)]),
        ("cuMemAllocHost_v2", [NULL, u64(64)]),
        ("cuMemFree_v2", [u64(4096)]),
        ("cuMemcpyHtoD_v2", [u64(4096), memory(b"1234"), u64(4)]),
        ("cuMemsetD8_v2", [u64(4096), u32(0), u64(4)]),
        ("cuPointerGetAttribute", [OUT_U64, i32(2), u64(4096)]),
        ("cuMemFreeHost", [u64(4096)]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments_are_refused(cuda: CudaProcess, name: str, arguments: list[Any]) -> None:
    assert cuda.call(name, *arguments).rc == INVALID_VALUE


def test_freeing_twice_is_refused(cuda: CudaProcess) -> None:
    for size in (512, 4 * MIB):
        address = cuda.allocate(size)
        cuda.free(address)
        assert cuda.call("cuMemFree_v2", u64(address)).rc == INVALID_VALUE


def test_only_the_base_can_be_freed(cuda: CudaProcess) -> None:
    address = cuda.allocate(4 * MIB)
    assert cuda.call("cuMemFree_v2", u64(address + 512)).rc == INVALID_VALUE
    cuda.free(address)


def test_freeing_null_does_nothing(cuda: CudaProcess) -> None:
    cuda.free(0)


def test_memory_info_takes_null(cuda: CudaProcess) -> None:
    free, total = cuda.memory_info()
    assert cuda.check("cuMemGetInfo_v2", OUT_U64, NULL) == [free]
    assert cuda.check("cuMemGetInfo_v2", NULL, OUT_U64) == [total]


def test_no_context_no_memory(spawn: Spawn) -> None:
    process = spawn()
    process.check("cuInit", u32(0))
    assert process.call("cuMemAlloc_v2", OUT_U64, u64(512)).rc == INVALID_CONTEXT
    assert process.call("cuMemGetInfo_v2", OUT_U64, OUT_U64).rc == INVALID_CONTEXT
    assert process.call("cuMemFree_v2", u64(512)).rc == INVALID_CONTEXT


def test_pitched_rows_are_aligned(cuda: CudaProcess) -> None:
    address, pitch = cuda.check("cuMemAllocPitch_v2", OUT_U64, OUT_U64, u64(1000), u64(10), u32(4))
    assert pitch >= 1000
    assert pitch % 512 == 0
    base, size = cuda.check("cuMemGetAddressRange_v2", OUT_U64, OUT_U64, u64(address + 3 * pitch))
    assert (base, size) == (address, pitch * 10)


def test_the_old_abi_gets_addresses_of_32_bits(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start()
    (address,) = cuda.check("cuMemAlloc", OUT_U32, u32(3 * MIB))
    assert address != 0
    cuda.check("cuMemcpyHtoD", u32(address), memory(b"old"), u32(3))
    assert bytes.fromhex(cuda.check("cuMemcpyDtoH", buffer(3), u32(address), u32(3))[0]) == b"old"
    assert cuda.check("cuMemGetInfo", OUT_U32, OUT_U32) == [1024 * MIB - CONTEXT - 4 * MIB, 1024 * MIB]
    assert cuda.check("cuMemGetAddressRange", OUT_U32, OUT_U32, u32(address + 1)) == [address, 3 * MIB]
    cuda.check("cuMemFree", u32(address))


@pytest.mark.parametrize("size", [1, 1000, 3 * MIB + 7], ids=str)
def test_bytes_make_the_round_trip(cuda: CudaProcess, size: int) -> None:
    content = bytes(index * 7 % 251 for index in range(size))
    first, second = cuda.allocate(size), cuda.allocate(size)
    cuda.write(first, content)
    cuda.check("cuMemcpyDtoD_v2", u64(second), u64(first), u64(size))
    assert cuda.read(second, size) == content


def test_unified_copies_and_streams(cuda: CudaProcess) -> None:
    address = cuda.allocate(64)
    (stream,) = cuda.check("cuStreamCreate", OUT_U64, u32(0))
    cuda.check("cuMemcpyHtoDAsync_v2", u64(address), memory(b"A" * 64), u64(64), u64(stream))
    cuda.check("cuMemcpyDtoDAsync_v2_ptsz", u64(address + 8), u64(address), u64(4), u64(0))
    cuda.check("cuMemsetD32Async", u64(address + 16), u32(0x44434241), u64(2), u64(stream))
    cuda.check("cuStreamSynchronize", u64(stream))
    (content,) = cuda.check("cuMemcpy", buffer(64), u64(address), u64(64))
    assert bytes.fromhex(content) == b"A" * 16 + b"ABCDABCD" + b"A" * 40
    assert cuda.call("cuMemcpyHtoDAsync_v2", u64(address), memory(b"1"), u64(1), u64(0xDEAD0)).rc == INVALID_HANDLE


def test_copies_stay_inside_their_allocation(cuda: CudaProcess) -> None:
    address = cuda.allocate(GRANULE)
    cuda.check("cuMemsetD8_v2", u64(address), u32(7), u64(GRANULE))
    assert cuda.call("cuMemsetD8_v2", u64(address), u32(7), u64(GRANULE + 1)).rc == INVALID_VALUE
    assert cuda.call("cuMemcpyHtoD_v2", u64(address + GRANULE - 1), memory(b"12"), u64(2)).rc == INVALID_VALUE


def test_two_dimensional_copies(cuda: CudaProcess) -> None:
    source = cuda.allocate(512 * 4)
    cuda.check("cuMemsetD2D8_v2", u64(source), u64(512), u32(ord("x")), u64(3), u64(4))
    copied = cuda.python(f"""
class Copy(ctypes.Structure):
    _fields_ = [("src_x", ctypes.c_size_t), ("src_y", ctypes.c_size_t), ("src_type", ctypes.c_int),
                ("src_host", ctypes.c_void_p), ("src_device", ctypes.c_uint64), ("src_array", ctypes.c_void_p),
                ("src_pitch", ctypes.c_size_t), ("dst_x", ctypes.c_size_t), ("dst_y", ctypes.c_size_t),
                ("dst_type", ctypes.c_int), ("dst_host", ctypes.c_void_p), ("dst_device", ctypes.c_uint64),
                ("dst_array", ctypes.c_void_p), ("dst_pitch", ctypes.c_size_t), ("width", ctypes.c_size_t),
                ("height", ctypes.c_size_t)]
target = ctypes.create_string_buffer(16)
copy = Copy(src_type=2, src_device={source}, src_pitch=512, dst_type=1, dst_host=ctypes.addressof(target),
            dst_pitch=4, width=3, height=4)
result = [cuda.cuMemcpy2D_v2(ctypes.byref(copy)), target.raw.decode()]
""")
    assert copied == [SUCCESS, "xxx\0" * 4]


def test_device_memory_is_out_of_a_cpus_reach(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start()
    address = cuda.allocate(4 * MIB)
    died = cuda.python(f"""
child = os.fork()
if child == 0:
    import resource, signal
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at({address}, 1)
    os._exit(0)
_, status = os.waitpid(child, 0)
result = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
""")
    assert died == 11


def test_managed_memory_is_everyones(cuda: CudaProcess) -> None:
    (address,) = cuda.check("cuMemAllocManaged", OUT_U64, u64(4 * MIB), u32(1))
    cuda.python(f"ctypes.memmove({address}, b'host', 4); result = 0")
    assert cuda.read(address, 4) == b"host"
    cuda.check("cuMemsetD8_v2", u64(address), u32(ord("d")), u64(4))
    assert cuda.python(f"result = ctypes.string_at({address}, 4).decode()") == "dddd"
    assert cuda.check("cuPointerGetAttribute", OUT_U32, i32(8), u64(address)) == [1]
    cuda.free(address)


def test_managed_memory_takes_a_device_only_once_it_is_there(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start()
    free, _ = cuda.memory_info()
    (address,) = cuda.check("cuMemAllocManaged", OUT_U64, u64(8 * MIB), u32(1))
    assert cuda.memory_info()[0] == free
    cuda.check("cuMemPrefetchAsync", u64(address), u64(8 * MIB), i32(0), u64(0))
    assert cuda.memory_info()[0] == free - 8 * MIB
    cuda.check("cuMemPrefetchAsync", u64(address), u64(8 * MIB), i32(-1), u64(0))
    assert cuda.memory_info()[0] == free
    (huge,) = cuda.check("cuMemAllocManaged", OUT_U64, u64(2048 * MIB), u32(1))
    cuda.check("cuMemPrefetchAsync", u64(huge), u64(2048 * MIB), i32(0), u64(0))
    assert cuda.memory_info()[0] == free


def test_pinned_memory_is_not_the_devices(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    (address,) = cuda.check("cuMemHostAlloc", OUT_U64, u64(8 * MIB), u32(2))
    assert cuda.memory_info()[0] == free
    assert cuda.check("cuMemHostGetDevicePointer_v2", OUT_U64, u64(address), u32(0)) == [address]
    assert cuda.check("cuPointerGetAttribute", OUT_U32, i32(2), u64(address)) == [1]
    cuda.check("cuMemFreeHost", u64(address))
    assert cuda.call("cuMemFreeHost", u64(address)).rc == INVALID_VALUE


def test_registering_host_memory(cuda: CudaProcess) -> None:
    address = cuda.python("own = ctypes.create_string_buffer(8192); result = ctypes.addressof(own)")
    cuda.check("cuMemHostRegister_v2", u64(address), u64(8192), u32(0))
    assert cuda.call("cuMemHostRegister_v2", u64(address), u64(8192), u32(0)).rc == 712
    cuda.check("cuMemHostUnregister", u64(address))
    assert cuda.call("cuMemHostUnregister", u64(address)).rc == 713


def test_pointer_attributes_of_device_memory(cuda: CudaProcess) -> None:
    address = cuda.allocate(4 * MIB)
    (context,) = cuda.check("cuCtxGetCurrent", OUT_U64)
    inside = u64(address + 100)
    assert cuda.check("cuPointerGetAttribute", OUT_U64, i32(1), inside) == [context]
    assert cuda.check("cuPointerGetAttribute", OUT_U32, i32(2), inside) == [2]
    assert cuda.check("cuPointerGetAttribute", OUT_I32, i32(9), inside) == [0]
    assert cuda.check("cuPointerGetAttribute", OUT_U64, i32(11), inside) == [address]
    assert cuda.check("cuPointerGetAttribute", OUT_U64, i32(12), inside) == [4 * MIB]
    assert cuda.call("cuPointerGetAttribute", OUT_U64, i32(4), inside).rc == INVALID_VALUE


def test_error_names(cuda: CudaProcess) -> None:
    name = cuda.python("""
text = ctypes.c_char_p()
code, name = cuda.cuGetErrorName(2, ctypes.byref(text)), text.value.decode()
result = [code, name, cuda.cuGetErrorName(12345, ctypes.byref(text))]
""")
    assert name == [SUCCESS, "CUDA_ERROR_OUT_OF_MEMORY", INVALID_VALUE]
