"""The estimate of an array's size is never below what the model's driver says it takes, and not far above.

The shim asks the driver where it can. The estimate is for one-dimensional arrays and for drivers before CUDA 11.6, so
it is judged here by itself, compiled from its source.
"""

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fracgpu.native.fake_gpu import FakeGpuSpec, create_machine
from fracgpu.native.libraries import NativeLibraries
from tests.native.fake.arrays import CUBEMAP, DEFERRED, LAYERED, SURFACE, descriptor, requirements
from tests.native.fake.cuda_process import OUT_U64, CudaProcess, u32, u64

MIB = 1 << 20
INTERCEPTOR = Path(__file__).resolve().parent.parent.parent / "native" / "interceptor"
COUNTED = (0x01, 0x02, 0x03, 0x08, 0x09, 0x0A, 0x10, 0x20)
BLOCKS = tuple(range(0x91, 0x9F))
OTHERS = (*range(0xC0, 0xCC), 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xB1, 0x50, 0x51, 0x52)
PLANAR = (0xB0, 0x9F, 0xA1, 0xA2, 0xA3, 0xA4, 0xB2, 0xB3, 0xB4, 0xB5, *range(0x53, 0x5F))
NEWER = 0x7E


class Shape(ctypes.Structure):
    """struct fg_array_shape."""

    _fields_ = [
        ("width", ctypes.c_size_t),
        ("height", ctypes.c_size_t),
        ("depth", ctypes.c_size_t),
        ("format", ctypes.c_int),
        ("channels", ctypes.c_uint),
        ("flags", ctypes.c_uint),
    ]


@pytest.fixture(scope="module")
def estimate(tmp_path_factory: pytest.TempPathFactory, c_compiler: tuple[str, ...]) -> Any:
    library = tmp_path_factory.mktemp("estimate") / "array_size.so"
    command = [
        *c_compiler,
        "-std=c11",
        "-O2",
        "-fPIC",
        "-shared",
        str(INTERCEPTOR / "array_size.c"),
        "-o",
        str(library),
    ]
    subprocess.run(command, check=True)
    function = ctypes.CDLL(str(library)).fg_array_estimate
    function.restype = ctypes.c_uint64
    return function


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory, native_build: NativeLibraries) -> Any:
    machine = tmp_path_factory.mktemp("machine") / "machine"
    create_machine(machine, [FakeGpuSpec(uuid="GPU-11111111-2222-3333-4444-555555555555", memory_bytes=8192 * MIB)])
    environment = {"FRACGPU_FAKE_GPU": str(machine), "LD_LIBRARY_PATH": str(native_build.fake_cuda.parent)}
    with CudaProcess(environment) as process:
        yield process.start()


# Extents at and around powers of two, where layouts have their steps, and any others.
def extents(largest: int) -> st.SearchStrategy[int]:
    powers = [1 << power for power in range(15)]
    edges = sorted({max(1, power + step) for power in powers for step in (-1, 0, 1) if power + step <= largest})
    return st.one_of(st.sampled_from(edges), st.integers(1, largest))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, int, int, int, int]:
    """(width, height, depth, format, channels, flags, levels), of at least two dimensions."""
    kind = draw(st.sampled_from((*COUNTED, *BLOCKS, *OTHERS, *PLANAR)))
    channels = draw(st.sampled_from((1, 2, 4)))
    family = "flat" if kind in PLANAR else draw(st.sampled_from(("flat", "layered", "deep", "cube", "cubes")))
    width, height = draw(extents(16384)), draw(extents(16384))
    levels = 1 if kind in PLANAR else draw(st.integers(1, 16))
    surface = draw(st.sampled_from((0, SURFACE)))
    if family == "deep":
        return draw(extents(2048)), draw(extents(2048)), draw(extents(2048)), kind, channels, surface, levels
    if family == "layered":
        return width, height, draw(st.integers(1, 2048)), kind, channels, LAYERED | surface, levels
    if family == "cube":
        return width, width, 6, kind, channels, CUBEMAP | surface, levels
    if family == "cubes":
        return width, width, 6 * draw(st.integers(1, 300)), kind, channels, CUBEMAP | LAYERED | surface, levels
    return width, height, 0, kind, channels, surface, levels


def truth(driver: CudaProcess, shape: tuple[int, ...]) -> int:
    """What the driver says of the array that takes nothing yet."""
    *dimensions, kind, channels, flags, levels = shape
    wanted = descriptor(*dimensions, kind=kind, channels=channels, flags=flags | DEFERRED)
    (mipmap,) = driver.check("cuMipmappedArrayCreate", OUT_U64, wanted, u32(levels))
    needed = requirements(driver, "cuMipmappedArrayGetMemoryRequirements", mipmap)
    driver.check("cuMipmappedArrayDestroy", u64(mipmap))
    assert isinstance(needed, tuple)
    return needed[0]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=shapes())
def test_the_estimate_is_never_too_low(driver: CudaProcess, estimate: Any, shape: tuple[int, ...]) -> None:
    *described, levels = shape
    estimated, held = estimate(ctypes.byref(Shape(*described)), levels), truth(driver, shape)
    assert held <= estimated
    # Blocks may be twice as high and twice as deep as the model's, and the mip levels' rests add up.
    assert estimated <= 4 * held + MIB * max(1, shape[2])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(width=extents(16384), layers=st.integers(0, 2048), channels=st.sampled_from((1, 2, 4)))
def test_lines_take_what_is_estimated(
    driver: CudaProcess, estimate: Any, width: int, layers: int, channels: int
) -> None:
    flags = LAYERED if layers else 0
    estimated = estimate(ctypes.byref(Shape(width, 0, layers, 0x20, channels, flags)), 1)
    free, _ = driver.memory_info()
    wanted = descriptor(width, 0, layers, channels=channels, flags=flags)
    (array,) = driver.check("cuArray3DCreate_v2", OUT_U64, wanted)
    held = free - driver.memory_info()[0]
    driver.check("cuArrayDestroy", u64(array))
    # Below a mebibyte the array shares a granule with others; above it has granules of its own.
    assert held <= max(2 * MIB, -(-estimated // (2 * MIB)) * 2 * MIB)
    assert estimated <= MIB or held == -(-estimated // (2 * MIB)) * 2 * MIB


@pytest.mark.parametrize("extent", [2**16, 2**40, 2**63, 2**64 - 1])
def test_absurd_extents_do_not_wrap(estimate: Any, extent: int) -> None:
    assert estimate(ctypes.byref(Shape(extent, extent, extent, 0x20, 4, 0)), 64) >= 2**52
    assert estimate(ctypes.byref(Shape(extent, extent, 2**64 - 1, 0x20, 4, LAYERED)), 2**32 - 1) >= 2**60


def test_a_format_that_is_newer_than_the_list(estimate: Any) -> None:
    """It is taken for the largest element that there is."""
    largest = estimate(ctypes.byref(Shape(1024, 1024, 0, 0x20, 4, 0)), 1)
    assert estimate(ctypes.byref(Shape(1024, 1024, 0, NEWER, 1, 0)), 1) == largest == 16 * MIB
    # The number of channels is the program's, and may be anything.
    assert estimate(ctypes.byref(Shape(1024, 1024, 0, 0x20, 2**32 - 1, 0)), 1) == largest
