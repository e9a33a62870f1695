"""The tests' end of cuda_worker.py: a CUDA process as an object."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

MIB: Final = 1 << 20
GRANULE: Final = 2 * MIB
SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, NOT_INITIALIZED = 0, 1, 2, 3
NO_DEVICE, INVALID_DEVICE, INVALID_CONTEXT, CONTEXT_DESTROYED = 100, 101, 201, 709
INVALID_HANDLE, NOT_FOUND, NOT_SUPPORTED = 400, 500, 801

NULL: Final = ["null"]
OUT_I32: Final = ["out", "i32"]
OUT_U32: Final = ["out", "u32"]
OUT_U64: Final = ["out", "u64"]


def u64(value: int) -> list[Any]:
    return ["u64", value]


def u32(value: int) -> list[Any]:
    return ["u32", value]


def i32(value: int) -> list[Any]:
    return ["i32", value]


def memory(content: bytes) -> list[Any]:
    return ["bytes", content.hex()]


def buffer(size: int) -> list[Any]:
    return ["buffer", size]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call returned: its CUresult and its out-parameters in order (buffers as bytes in hex)."""

    rc: int
    out: list[Any]


class CudaProcess:
    """A process that calls the driver on demand."""

    def __init__(self, environment: dict[str, str], prefix: tuple[str, ...] = ()) -> None:
        self._process = subprocess.Popen(
            [*prefix, sys.executable, str(Path(__file__).with_name("cuda_worker.py"))],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._busy = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _receive(self) -> Reply:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the worker died: exit status {self._process.wait()}"
        return Reply(**json.loads(line))

    def _request(self, request: dict[str, Any]) -> Reply:
        self._send(request)
        return self._receive()

    def post(self, source: str) -> None:
        """Start `source` over there without waiting; `result` waits for it."""
        self._busy = True
        self._send({"python": source})

    def result(self) -> Any:
        answer = self._receive().out[0]
        self._busy = False
        return answer

    def call(self, name: str, *arguments: list[Any]) -> Reply:
        return self._request({"f": name, "args": list(arguments)})

    def check(self, name: str, *arguments: list[Any]) -> list[Any]:
        """Call and expect success; returns the out-parameters."""
        reply = self.call(name, *arguments)
        assert reply.rc == SUCCESS, f"{name} returned {reply.rc}"
        return reply.out

    def python(self, source: str) -> Any:
        """Run `source` over there and return its variable `result`."""
        return self._request({"python": source}).out[0]

    def start(self, device: int = 0) -> Self:
        """Initialise the driver and make the primary context of `device` current."""
        self.check("cuInit", u32(0))
        (context,) = self.check("cuDevicePrimaryCtxRetain", OUT_U64, i32(device))
        self.check("cuCtxSetCurrent", u64(context))
        return self

    def allocate(self, size: int) -> int:
        return int(self.check("cuMemAlloc_v2", OUT_U64, u64(size))[0])

    def free(self, address: int) -> None:
        self.check("cuMemFree_v2", u64(address))

    def memory_info(self) -> tuple[int, int]:
        """(free, total) bytes of the current device."""
        free, total = self.check("cuMemGetInfo_v2", OUT_U64, OUT_U64)
        return free, total

    def write(self, address: int, content: bytes) -> None:
        self.check("cuMemcpyHtoD_v2", u64(address), memory(content), u64(len(content)))

    def read(self, address: int, size: int) -> bytes:
        return bytes.fromhex(self.check("cuMemcpyDtoH_v2", buffer(size), u64(address), u64(size))[0])

    def kill(self) -> None:
        """SIGKILL, and wait until the kernel has taken the process apart."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.poll() is None:
            if self._busy:
                # A test that failed half way left it at work, perhaps without an end.
                self._process.kill()
            self._process.stdin.close()
            self._process.wait()
        self._process.stdout.close()
