"""What tests of shared memory let CUDA processes do: export, send, import, open."""

import struct
from typing import Final

from tests.native.fake.cuda_process import MIB, OUT_U64, CudaProcess, buffer, i32, memory, u64

FILE_DESCRIPTOR: Final = 1
FABRIC: Final = 8

# What a worker needs to open a handle (a structure by value), to send a descriptor and to receive one.
OPEN_HANDLE: Final = """
class Handle(ctypes.Structure):
    _fields_ = [("data", ctypes.c_char * 64)]
cuda.cuIpcOpenMemHandle_v2.argtypes = [ctypes.c_void_p, Handle, ctypes.c_uint]
address = ctypes.c_uint64()
code = cuda.cuIpcOpenMemHandle_v2(ctypes.byref(address), Handle.from_buffer_copy(bytes.fromhex("{handle}")), {flags})
result = [code, address.value]
"""
SEND: Final = """
import socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
    sender.connect("{path}")
    socket.send_fds(sender, [b"x"], [{descriptor}])
result = 0
"""


def handle_of(cuda: CudaProcess, address: int) -> str:
    return str(cuda.check("cuIpcGetMemHandle", buffer(64), u64(address))[0])


def open_handle(cuda: CudaProcess, handle: str, flags: int = 1) -> tuple[int, int]:
    code, address = cuda.python(OPEN_HANDLE.format(handle=handle, flags=flags))
    return code, address


def opened(cuda: CudaProcess, handle: str) -> int:
    code, address = open_handle(cuda, handle)
    assert code == 0
    return address


def properties(handle_types: int = FILE_DESCRIPTOR, device: int = 0) -> list[object]:
    return memory(struct.pack("<iiiiQQ", 1, handle_types, 1, device, 0, 0))


def create(cuda: CudaProcess, size: int = 4 * MIB) -> int:
    return int(cuda.check("cuMemCreate", OUT_U64, u64(size), properties(), u64(0))[0])


def exported(cuda: CudaProcess, handle: int) -> int:
    (out,) = cuda.check("cuMemExportToShareableHandle", buffer(4), u64(handle), i32(FILE_DESCRIPTOR), u64(0))
    return int(struct.unpack("<i", bytes.fromhex(out))[0])


def close(cuda: CudaProcess, descriptor: int) -> None:
    cuda.python(f"os.close({descriptor}); result = 0")


def import_from(cuda: CudaProcess, pid: int, descriptor: int) -> int:
    """Let `cuda` import what process `pid` has as `descriptor`; its own copy of the descriptor is closed again."""
    return int(
        cuda.python(f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
pidfd = libc.syscall(434, {pid}, 0)
descriptor = libc.syscall(438, pidfd, {descriptor}, 0)
assert descriptor >= 0, ctypes.get_errno()
reply = call("cuMemImportFromShareableHandle", ["out", "u64"], ["u64", descriptor], ["i32", 1])
os.close(descriptor); os.close(pidfd)
assert reply["rc"] == 0, reply
result = reply["out"][0]
""")
    )


def mapped(cuda: CudaProcess, handle: int, size: int = 4 * MIB) -> int:
    (address,) = cuda.check("cuMemAddressReserve", OUT_U64, u64(size), u64(0), u64(0), u64(0))
    cuda.check("cuMemMap", u64(address), u64(size), u64(0), u64(handle), u64(0))
    cuda.check("cuMemSetAccess", u64(address), u64(size), memory(struct.pack("<iii", 1, 0, 3)), u64(1))
    return int(address)
