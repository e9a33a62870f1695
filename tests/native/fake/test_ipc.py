"""Memory that several processes hold: one set of bytes, counted once, there until nobody holds it."""

import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.native.fake.cuda_process import (
    GRANULE,
    INVALID_CONTEXT,
    INVALID_HANDLE,
    INVALID_VALUE,
    MIB,
    NOT_SUPPORTED,
    OUT_U64,
    CudaProcess,
    buffer,
    i32,
    memory,
    u64,
)
from tests.native.fake.sharing import (
    FABRIC,
    FILE_DESCRIPTOR,
    SEND,
    close,
    create,
    exported,
    handle_of,
    import_from,
    mapped,
    open_handle,
    opened,
    properties,
)

Spawn = Callable[..., CudaProcess]
CONTEXT = 16 * MIB


def used(model: Any, index: int = 0) -> int:
    return int(model.usage(index).used_bytes)


def by_pid(model: Any) -> dict[int, int]:
    return {process.pid: process.used_bytes for process in model.usage().processes}


class Mailbox:
    """A socket of the test to which workers send descriptors: they are in flight, or the test's, as it likes."""

    def __init__(self, directory: Any) -> None:
        self.path = str(directory / "mailbox")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)

    def take(self) -> int:
        return socket.recv_fds(self._socket, 1, 1)[1][0]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def mailbox(tmp_path: Any) -> Any:
    box = Mailbox(tmp_path)
    yield box
    box.close()


def test_an_opened_allocation_has_the_same_bytes(spawn: Spawn) -> None:
    first, second = spawn().start(), spawn().start()
    address = first.allocate(8 * MIB)
    first.write(address + 5 * MIB, b"before")
    there = opened(second, handle_of(first, address))
    assert second.read(there + 5 * MIB, 6) == b"before"
    second.write(there, b"from the second")
    assert first.read(address, 15) == b"from the second"


@pytest.mark.parametrize("size", [8 * MIB, 512])
def test_shared_memory_counts_once_and_until_the_last_holder(spawn: Spawn, model: Any, size: int) -> None:
    first, second = spawn().start(), spawn().start()
    held = max(size, GRANULE)
    address = first.allocate(size)
    handle = handle_of(first, address)
    assert used(model) == 2 * CONTEXT + held
    there = opened(second, handle)
    assert used(model) == 2 * CONTEXT + held
    assert by_pid(model) == {first.pid: CONTEXT + held, second.pid: CONTEXT}
    first.free(address)
    assert by_pid(model) == {first.pid: CONTEXT, second.pid: CONTEXT + held}
    second.check("cuIpcCloseMemHandle", u64(there))
    assert used(model) == 2 * CONTEXT


def test_the_card_sees_shared_memory(spawn: Spawn, model: Any) -> None:
    first, second = spawn().start(), spawn().start()
    address = first.allocate(600 * MIB)
    opened(second, handle_of(first, address))
    assert second.call("cuMemAlloc_v2", OUT_U64, u64(600 * MIB)).rc == 2
    first.kill()
    assert second.call("cuMemAlloc_v2", OUT_U64, u64(600 * MIB)).rc == 2
    assert second.memory_info()[0] == (1024 - 600) * MIB - CONTEXT
    second.kill()
    assert used(model) == 0


def test_opening_twice_gives_the_same_address(spawn: Spawn) -> None:
    first, second = spawn().start(), spawn().start()
    handle = handle_of(first, first.allocate(8 * MIB))
    there = opened(second, handle)
    assert opened(second, handle) == there
    second.check("cuIpcCloseMemHandle", u64(there))
    second.write(there, b"still open")
    second.check("cuIpcCloseMemHandle", u64(there))
    assert second.call("cuIpcCloseMemHandle", u64(there)).rc == INVALID_VALUE


def test_what_can_not_be_opened(spawn: Spawn) -> None:
    first, second = spawn().start(), spawn().start()
    address = first.allocate(8 * MIB)
    handle = handle_of(first, address)
    assert open_handle(first, handle)[0] == INVALID_CONTEXT
    assert open_handle(second, handle, flags=0)[0] == INVALID_VALUE
    assert open_handle(second, "00" * 64)[0] == INVALID_HANDLE
    assert first.call("cuIpcGetMemHandle", buffer(64), u64(address + 512)).rc == INVALID_VALUE
    assert second.call("cuMemFree_v2", u64(opened(second, handle))).rc == INVALID_VALUE
    first.kill()
    third = spawn().start()
    assert open_handle(third, handle)[0] == INVALID_HANDLE


def test_imported_physical_memory(spawn: Spawn, model: Any) -> None:
    first, second = spawn().start(), spawn().start()
    handle = create(first)
    address = mapped(first, handle)
    first.write(address, b"early")
    descriptor = exported(first, handle)
    there = mapped(second, import_from(second, first.pid, descriptor))
    assert second.read(there, 5) == b"early"
    second.write(there + 4 * MIB - 4, b"late")
    assert first.read(address + 4 * MIB - 4, 4) == b"late"
    assert used(model) == 2 * CONTEXT + 4 * MIB


@pytest.mark.parametrize("end", ["release", "kill"])
def test_an_import_outlives_the_exporter(spawn: Spawn, model: Any, end: str) -> None:
    first, second = spawn().start(), spawn().start()
    handle = create(first)
    imported = import_from(second, first.pid, exported(first, handle))
    if end == "kill":
        first.kill()
    else:
        descriptor = exported(first, handle)
        first.check("cuMemRelease", u64(handle))
        first.python(f"os.closerange(3, {descriptor + 1}); result = 0")
    assert by_pid(model)[second.pid] == CONTEXT + 4 * MIB
    second.check("cuMemRelease", u64(imported))
    assert used(model) == CONTEXT * (1 if end == "kill" else 2)


def test_a_descriptor_in_flight_holds_the_memory(spawn: Spawn, model: Any, mailbox: Any) -> None:
    first = spawn().start()
    handle = create(first)
    descriptor = exported(first, handle)
    first.python(SEND.format(path=mailbox.path, descriptor=descriptor))
    first.kill()
    assert used(model) == 4 * MIB
    assert model.usage().processes == ()
    second = spawn().start()
    assert second.memory_info()[0] == 1024 * MIB - CONTEXT - 4 * MIB
    taken = mailbox.take()
    imported = import_from(second, os.getpid(), taken)
    os.close(taken)
    assert by_pid(model) == {second.pid: CONTEXT + 4 * MIB}
    second.check("cuMemRelease", u64(imported))
    assert used(model) == CONTEXT


def test_a_closed_descriptor_holds_nothing(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start()
    handle = create(cuda)
    descriptor = exported(cuda, handle)
    cuda.check("cuMemRelease", u64(handle))
    assert used(model) == CONTEXT + 4 * MIB
    close(cuda, descriptor)
    assert used(model) == CONTEXT


def test_importing_in_the_same_process(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start()
    handle = create(cuda)
    descriptor = exported(cuda, handle)
    (again,) = cuda.check("cuMemImportFromShareableHandle", OUT_U64, u64(descriptor), i32(FILE_DESCRIPTOR))
    assert again != handle
    close(cuda, descriptor)
    cuda.check("cuMemRelease", u64(handle))
    assert used(model) == CONTEXT + 4 * MIB
    cuda.check("cuMemRelease", u64(again))
    assert used(model) == CONTEXT


def test_the_importers_properties(spawn: Spawn) -> None:
    first, second = spawn().start(), spawn(CUDA_VISIBLE_DEVICES="1,0").start(1)
    descriptor = exported(first, create(first))
    imported = import_from(second, first.pid, descriptor)
    (raw,) = second.check("cuMemGetAllocationPropertiesFromHandle", buffer(32), u64(imported))
    assert struct.unpack("<iiii", bytes.fromhex(raw)[:16]) == (1, FILE_DESCRIPTOR, 1, 1)


def test_what_can_not_be_exported_or_imported(spawn: Spawn) -> None:
    cuda = spawn().start()
    private = int(cuda.check("cuMemCreate", OUT_U64, u64(GRANULE), properties(0), u64(0))[0])
    shareable = create(cuda)
    export = "cuMemExportToShareableHandle"
    assert cuda.call(export, buffer(4), u64(private), i32(FILE_DESCRIPTOR), u64(0)).rc == INVALID_VALUE
    assert cuda.call(export, buffer(4), u64(shareable), i32(FILE_DESCRIPTOR), u64(1)).rc == INVALID_VALUE
    assert cuda.call(export, buffer(4), u64(77), i32(FILE_DESCRIPTOR), u64(0)).rc == INVALID_VALUE
    assert cuda.call(export, buffer(64), u64(shareable), i32(FABRIC), u64(0)).rc == NOT_SUPPORTED
    assert cuda.call("cuMemCreate", OUT_U64, u64(GRANULE), properties(FABRIC), u64(0)).rc == NOT_SUPPORTED
    arguments = (OUT_U64, u64(0), i32(FILE_DESCRIPTOR))
    assert cuda.call("cuMemImportFromShareableHandle", *arguments).rc == INVALID_VALUE


def test_many_exports_use_records_again(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start()
    for _ in range(600):
        handle = create(cuda, GRANULE)
        close(cuda, exported(cuda, handle))
        cuda.check("cuMemRelease", u64(handle))
    assert used(model) == CONTEXT


def imported_pool(exporter: CudaProcess, importer: CudaProcess) -> tuple[int, int]:
    """A pool that both have: the exporter's handle and the importer's."""
    properties = memory(struct.pack("<iiiiQQ", 1, FILE_DESCRIPTOR, 1, 0, 0, 0) + bytes(56))
    (pool,) = exporter.check("cuMemPoolCreate", OUT_U64, properties)
    arguments = (u64(pool), i32(FILE_DESCRIPTOR), u64(0))
    (raw,) = exporter.check("cuMemPoolExportToShareableHandle", buffer(4), *arguments)
    (descriptor,) = struct.unpack("<i", bytes.fromhex(raw))
    here = importer.python(f"""
libc = ctypes.CDLL(None)
pidfd = libc.syscall(434, {exporter.pid}, 0)
result = libc.syscall(438, pidfd, {descriptor}, 0)
os.close(pidfd)
""")
    (there,) = importer.check("cuMemPoolImportFromShareableHandle", OUT_U64, u64(here), i32(FILE_DESCRIPTOR), u64(0))
    return pool, there


def test_a_pointer_of_an_imported_pool(spawn: Spawn, model: Any) -> None:
    first, second = spawn().start(), spawn().start()
    pool, there = imported_pool(first, second)
    (address,) = first.check("cuMemAllocFromPoolAsync", OUT_U64, u64(MIB), u64(pool), u64(0))
    first.write(address, b"pool")
    (data,) = first.check("cuMemPoolExportPointer", buffer(64), u64(address))
    (seen,) = second.check("cuMemPoolImportPointer", OUT_U64, u64(there), memory(bytes.fromhex(data)))
    assert second.read(seen, 4) == b"pool"
    assert used(model) == 2 * CONTEXT + 32 * MIB
    second.check("cuMemFreeAsync", u64(seen), u64(0))
    first.check("cuMemFreeAsync", u64(address), u64(0))
    first.check("cuStreamSynchronize", u64(0))
    assert used(model) == 2 * CONTEXT


def test_what_an_imported_pool_is_not_for(spawn: Spawn) -> None:
    first, second = spawn().start(), spawn().start()
    _, there = imported_pool(first, second)
    assert second.call("cuMemAllocFromPoolAsync", OUT_U64, u64(MIB), u64(there), u64(0)).rc == NOT_SUPPORTED
    assert second.call("cuDeviceSetMemPool", i32(0), u64(there)).rc == INVALID_VALUE
    (default,) = first.check("cuDeviceGetDefaultMemPool", OUT_U64, i32(0))
    arguments = (u64(default), i32(FILE_DESCRIPTOR), u64(0))
    assert first.call("cuMemPoolExportToShareableHandle", buffer(4), *arguments).rc == INVALID_VALUE
    second.check("cuMemPoolDestroy", u64(there))
