"""A process of a container with an NVML session and a CUDA context, for tests that ask both."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.native.fake.cuda_process import CudaProcess

# What the process has at hand: pynvml as `n`, GPU 0 as `h`, errors as their codes.
START = """
import pynvml as n
n.nvmlInit()
def code(function, *arguments):
    try:
        return function(*arguments)
    except n.NVMLError as error:
        return error.value
def pids(function):
    return sorted([p.pid, p.usedGpuMemory] for p in function(h))
h = n.nvmlDeviceGetHandleByIndex(0)
result = None
"""


@contextmanager
def spawning() -> Iterator[Callable[..., CudaProcess]]:
    """Yield what starts a process in a container or prefix, with GPU 0's context; they all end with the block."""
    with ExitStack() as stack:

        def start(place: Any, *prefix: str) -> CudaProcess:
            command = tuple(place.command(*prefix)) if hasattr(place, "command") else prefix
            process = stack.enter_context(CudaProcess(place.environment(), command))
            process.python(START)
            return process.start()

        yield start
