"""cuGetProcAddress: the right symbol for a name, a version and a kind of default stream."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.native.drivers import DRIVERS, SYMBOLS, Driver
from tests.native.fake.cuda_process import (
    INVALID_VALUE,
    NOT_FOUND,
    NOT_SUPPORTED,
    OUT_I32,
    OUT_U64,
    SUCCESS,
    CudaProcess,
    i32,
    memory,
    u64,
)

Spawn = Callable[..., CudaProcess]
FOUND, NO_SYMBOL, VERSION_TOO_LOW = 0, 1, 2
LEGACY, PER_THREAD = 1, 2


def ask(cuda: CudaProcess, name: str, version: int, flags: int = 0) -> tuple[int, int, int]:
    """(CUresult, address, status)."""
    reply = cuda.call("cuGetProcAddress_v2", memory(name.encode() + b"\0"), OUT_U64, i32(version), u64(flags), OUT_I32)
    return reply.rc, reply.out[0], reply.out[1]


def ask_v1(cuda: CudaProcess, name: str, version: int) -> tuple[int, int]:
    """(CUresult, address): all that drivers before CUDA 12.0 can be asked."""
    reply = cuda.call("cuGetProcAddress", memory(name.encode() + b"\0"), OUT_U64, i32(version), u64(0))
    return reply.rc, reply.out[0]


def exported(cuda: CudaProcess, symbol: str) -> int:
    return int(cuda.python(f"result = ctypes.cast(cuda.{symbol}, ctypes.c_void_p).value"))


@pytest.mark.parametrize(
    ("name", "version", "flags", "symbol"),
    [
        ("cuMemAlloc", 2000, 0, "cuMemAlloc"),
        ("cuMemAlloc", 3020, 0, "cuMemAlloc_v2"),
        ("cuMemAlloc", 12000, 0, "cuMemAlloc_v2"),
        ("cuMemGetInfo", 12000, 0, "cuMemGetInfo_v2"),
        ("cuCtxCreate", 2000, 0, "cuCtxCreate"),
        ("cuCtxCreate", 11030, 0, "cuCtxCreate_v2"),
        ("cuCtxCreate", 12000, 0, "cuCtxCreate_v3"),
        ("cuCtxGetDevice", 2000, 0, "cuCtxGetDevice"),
        ("cuMemAdvise", 8000, 0, "cuMemAdvise"),
        ("cuMemAllocAsync", 11020, 0, "cuMemAllocAsync"),
        ("cuMemAllocAsync", 11020, LEGACY, "cuMemAllocAsync"),
        ("cuMemAllocAsync", 11020, PER_THREAD, "cuMemAllocAsync_ptsz"),
        ("cuMemcpyHtoD", 12000, PER_THREAD, "cuMemcpyHtoD_v2_ptds"),
        ("cuMemAlloc", 12000, PER_THREAD, "cuMemAlloc_v2"),
        ("cuGetProcAddress", 11030, 0, "cuGetProcAddress"),
        ("cuGetProcAddress", 12000, 0, "cuGetProcAddress_v2"),
        ("cuLaunchKernel", 12000, PER_THREAD, "cuLaunchKernel_ptsz"),
    ],
)
def test_the_version_and_the_flags_choose(spawn: Spawn, name: str, version: int, flags: int, symbol: str) -> None:
    cuda = spawn()
    assert ask(cuda, name, version, flags) == (SUCCESS, exported(cuda, symbol), FOUND)


@pytest.mark.parametrize("name", ["", "cuNoSuchThing", "cuMemAlloc_v2x"])
def test_unknown_names(spawn: Spawn, name: str) -> None:
    _, address, status = ask(spawn(), name, 12000)
    assert (address, status) == (0, NO_SYMBOL)


def test_names_of_later_versions(spawn: Spawn) -> None:
    _, address, status = ask(spawn(), "cuMemAllocAsync", 10000)
    assert (address, status) == (0, VERSION_TOO_LOW)


def test_versions_the_driver_does_not_know(spawn: Spawn, model: Any) -> None:
    cuda = spawn()
    assert ask(cuda, "cuMemAlloc", 13000)[0] == SUCCESS
    assert ask(cuda, "cuMemAlloc", 13010)[0] == INVALID_VALUE
    assert ask(cuda, "cuMemAlloc", 12000, flags=8)[0] == INVALID_VALUE
    assert ask(cuda, "", 0)[0] == NOT_FOUND


def test_null_parameters(spawn: Spawn) -> None:
    cuda = spawn()
    name = memory(b"cuInit\0")
    assert cuda.call("cuGetProcAddress_v2", ["null"], OUT_U64, i32(12000), u64(0), OUT_I32).rc == INVALID_VALUE
    assert cuda.call("cuGetProcAddress_v2", name, ["null"], i32(12000), u64(0), OUT_I32).rc == INVALID_VALUE
    assert cuda.call("cuGetProcAddress_v2", name, OUT_U64, i32(12000), u64(0), ["null"]).rc == SUCCESS


@pytest.mark.parametrize("driver", DRIVERS, ids=str)
def test_exports_are_exactly_those_of_the_version(model: Any, driver: Driver) -> None:
    addresses = driver.exports(model.libraries)
    assert set(addresses) == {symbol.name for symbol in SYMBOLS if symbol.since <= driver.cuda_version}
    assert len(set(addresses.values())) == len(addresses), "an interceptor tells functions apart by their addresses"


@pytest.mark.parametrize("driver", DRIVERS, ids=str)
def test_a_driver_knows_nothing_newer_than_itself(spawn: Spawn, model: Any, driver: Driver) -> None:
    newer = sorted({symbol.base for symbol in SYMBOLS} - {symbol.base for symbol in SYMBOLS if driver.has(symbol.name)})
    cuda = spawn(LD_LIBRARY_PATH=str(driver.directory(model.libraries)))
    if driver.has("cuGetProcAddress_v2"):
        assert {ask(cuda, name, driver.cuda_version)[1:] for name in newer} <= {(0, NO_SYMBOL)}
    assert {ask_v1(cuda, name, driver.cuda_version) for name in newer} <= {(NOT_FOUND, 0)}
    assert ask_v1(cuda, "cuMemAlloc", driver.cuda_version) == (SUCCESS, exported(cuda, "cuMemAlloc_v2"))
    assert ask_v1(cuda, "cuMemAlloc", driver.cuda_version + 10)[0] == INVALID_VALUE
    reply = cuda.call("cuDriverGetVersion", OUT_I32)
    assert (reply.rc, reply.out) == (SUCCESS, [driver.cuda_version])


@pytest.mark.parametrize("driver", DRIVERS, ids=str)
def test_nvml_is_of_the_same_driver(model: Any, driver: Driver) -> None:
    script = (
        "import pynvml; pynvml.nvmlInit();"
        "print(pynvml.nvmlSystemGetDriverVersion(), pynvml.nvmlSystemGetCudaDriverVersion_v2())"
    )
    environment = model.environment | {"LD_LIBRARY_PATH": str(driver.directory(model.libraries))}
    result = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    assert result.stdout.split() == [driver.release, str(driver.cuda_version)]


def test_what_is_not_modelled_says_so(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start()
    default = next(driver for driver in DRIVERS if driver.is_default)
    absent = [symbol.name for symbol in SYMBOLS if default.has(symbol.name) and not symbol.modelled]
    codes = cuda.python(f"result = sorted({{getattr(cuda, name)() for name in {absent!r}}})")
    assert codes == [NOT_SUPPORTED]


def test_private_tables_do_not_exist(spawn: Spawn, model: Any) -> None:
    reply = spawn().start().call("cuGetExportTable", OUT_U64, memory(bytes(16)))
    assert (reply.rc, reply.out) == (NOT_FOUND, [0])
