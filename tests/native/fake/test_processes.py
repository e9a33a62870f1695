"""What happens between processes: what each sees of the others, and what death, fork and races leave behind."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from fracgpu.native import fake_gpu
from tests.native.fake.cuda_process import (
    MIB,
    NOT_INITIALIZED,
    OUT_I32,
    OUT_OF_MEMORY,
    OUT_U64,
    CudaProcess,
    i32,
    memory,
    u32,
    u64,
)

Spawn = Callable[..., CudaProcess]
CONTEXT = 16 * MIB
CARD = 1024 * MIB


def test_processes_share_the_card(spawn: Spawn) -> None:
    first, second = spawn().start(), spawn().start()
    before, _ = second.memory_info()
    address = first.allocate(100 * MIB)
    assert second.memory_info()[0] == before - 100 * MIB
    first.free(address)
    assert second.memory_info()[0] == before


def test_one_process_can_take_anothers_room(spawn: Spawn, model: Any) -> None:
    first, second = spawn().start(), spawn().start()
    first.allocate(first.memory_info()[0])
    assert second.call("cuMemAlloc_v2", OUT_U64, u64(1)).rc == OUT_OF_MEMORY
    first.kill()
    assert second.memory_info()[0] == CARD - CONTEXT
    second.allocate(900 * MIB)


def test_a_killed_process_leaves_nothing(spawn: Spawn, model: Any) -> None:
    first, second = spawn().start(), spawn().start()
    first.allocate(64 * MIB)
    first.check("cuMemAllocAsync", OUT_U64, u64(MIB), u64(0))
    first.check("cuMemCreate", OUT_U64, u64(2 * MIB), memory(b"\1\0\0\0\0\0\0\0\1\0\0\0" + bytes(20)), u64(0))
    assert {process.pid for process in model.usage().processes} == {first.pid, second.pid}
    first.kill()
    usage = model.usage()
    assert [(process.pid, process.used_bytes) for process in usage.processes] == [(second.pid, CONTEXT)]


def test_a_killed_process_leaves_nothing_although_its_child_lives(spawn: Spawn, model: Any) -> None:
    parent, other = spawn().start(), spawn().start()
    parent.allocate(64 * MIB)
    # The child waits for the end of a pipe that it inherits: it lives on until told.
    child = parent.python("""
release, blocked = os.pipe()
child = os.fork()
if child == 0:
    os.close(0); os.close(1)
    os.setsid()
    import signal
    signal.pause()
result = child
""")
    parent.kill()
    try:
        assert model.usage().used_bytes == CONTEXT
        other.allocate(900 * MIB)
    finally:
        subprocess.run(["kill", "-9", str(child)], check=True)


def test_a_process_that_ends_without_cleaning_up_leaves_nothing(spawn: Spawn, model: Any) -> None:
    process = spawn().start()
    process.allocate(64 * MIB)
    process.__exit__(None, None, None)
    assert model.usage().used_bytes == 0


def test_exec_gives_everything_back(spawn: Spawn, model: Any) -> None:
    process = spawn().start()
    process.allocate(64 * MIB)
    after = process.python("""
import sys
os.write(1, b'{"rc": 0, "out": [0]}\\n')
os.execv("/bin/sh", ["/bin/sh", "-c", "echo '{\\"rc\\": 0, \\"out\\": [1]}'; read line"])
""")
    assert after == 0
    assert process.python("ignored") == 1
    assert model.usage().used_bytes == 0


def test_a_forked_child_can_not_use_cuda(cuda: CudaProcess) -> None:
    codes = cuda.python("""
release, report = os.pipe()
child = os.fork()
if child == 0:
    codes = [call("cuInit", ["u32", 0])["rc"], call("cuMemAlloc_v2", ["out", "u64"], ["u64", 512])["rc"],
             call("cuMemGetInfo_v2", ["out", "u64"], ["out", "u64"])["rc"]]
    os.write(report, bytes(codes))
    os._exit(0)
os.waitpid(child, 0)
result = list(os.read(release, 3))
""")
    assert codes == [NOT_INITIALIZED] * 3


def test_a_forked_child_does_not_touch_the_parents_account(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start()
    address = cuda.allocate(32 * MIB)
    before = model.usage().used_bytes
    cuda.python(f"""
child = os.fork()
if child == 0:
    call("cuMemFree_v2", ["u64", {address}])
    call("cuDevicePrimaryCtxReset_v2", ["i32", 0])
    os._exit(0)
os.waitpid(child, 0)
result = 0
""")
    assert model.usage().used_bytes == before
    cuda.free(address)


def test_a_child_of_a_process_that_never_used_cuda_can(spawn: Spawn) -> None:
    code = spawn().python("""
child = os.fork()
if child == 0:
    os._exit(call("cuInit", ["u32", 0])["rc"])
result = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
""")
    assert code == 0


def test_closing_every_descriptor_does_no_harm(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start()
    cuda.python("os.closerange(3, 1024); result = 0")
    address = cuda.allocate(32 * MIB)
    assert model.usage().used_bytes == CONTEXT + 32 * MIB
    cuda.free(address)


def climb(model: Any, step_mib: int, count: int) -> list[list[dict[str, Any]]]:
    """Let `count` processes allocate until refused, all at once; each keeps what it got until all are done."""
    command = [str(model.libraries.probe("fracgpu-climb")), "driver", str(step_mib), "--hold"]
    climbers = [
        subprocess.Popen(command, env=model.environment, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    lines: list[list[dict[str, Any]]] = []
    for climber in climbers:
        assert climber.stdout is not None
        lines.append([])
        while not lines[-1] or lines[-1][-1]["event"] == "step":
            lines[-1].append(json.loads(climber.stdout.readline()))
    usage = model.usage()
    # A latecomer may find no room for its context even: it ends by itself, with status 3.
    climbed = [each[-1]["event"] == "refused" for each in lines]
    for climber, got_context in zip(climbers, climbed, strict=True):
        climber.terminate()
        assert climber.wait() == (0 if got_context else 3)
        assert climber.stdout is not None
        climber.stdout.close()
    # As long as a whole step was free, nobody was refused; and never was there more than the card has.
    assert usage.memory_bytes - usage.used_bytes < step_mib * MIB
    assert usage.peak_used_bytes <= usage.memory_bytes
    assert usage.used_bytes == sum(each[-1].get("allocated_bytes", 0) for each in lines) + sum(climbed) * CONTEXT
    return lines


@pytest.mark.parametrize("step_mib", [2, 10], ids="{}MiB".format)
def test_four_racing_processes_fill_the_card_exactly(model: Any, step_mib: int) -> None:
    lines = climb(model, step_mib, 4)
    assert all(each[-1]["code"] == OUT_OF_MEMORY for each in lines)
    assert model.usage().used_bytes == 0


CHURN = """
import random
random.seed({seed})
held, refused = [], 0
for _ in range({rounds}):
    if held and random.random() < 0.5:
        assert call("cuMemFree_v2", ["u64", held.pop(random.randrange(len(held)))])["rc"] == 0
    else:
        reply = call("cuMemAlloc_v2", ["out", "u64"], ["u64", random.randrange(1, 200 << 20)])
        refused += reply["rc"] == 2
        if reply["rc"] == 0:
            held.append(reply["out"][0])
result = refused
"""


def test_churning_processes_never_exceed_the_card(spawn: Spawn, model: Any) -> None:
    processes = [spawn().start() for _ in range(4)]
    for seed, process in enumerate(processes):
        process.post(CHURN.format(seed=seed, rounds=400))
    assert sum(process.result() for process in processes) > 0
    assert model.usage().peak_used_bytes <= CARD
    processes[0].kill()
    survivors = sum(usage.used_bytes for usage in model.usage().processes)
    assert survivors == model.usage().used_bytes
    for process in processes[1:]:
        process.check("cuDevicePrimaryCtxReset_v2", i32(0))
    assert model.usage().used_bytes == 0


def test_killing_processes_in_the_middle_of_it_loses_nothing(spawn: Spawn, model: Any) -> None:
    for seed in range(8):
        # Both have their contexts before the victim may fill the card.
        victim, witness = spawn().start(), spawn().start()
        victim.post(CHURN.format(seed=seed, rounds=10**9))
        for _ in range(20):
            witness.memory_info()
        victim.kill()
        witness.check("cuDevicePrimaryCtxReset_v2", i32(0))
        assert model.usage().used_bytes == 0
    cuda = spawn().start()
    cuda.allocate(CARD - CONTEXT)


def test_many_processes(spawn: Spawn, model: Any) -> None:
    processes = [spawn().start() for _ in range(12)]
    assert model.usage().used_bytes == 12 * CONTEXT
    assert len({process.pid for process in processes} & {entry.pid for entry in model.usage().processes}) == 12


def test_the_second_device_is_another_account(spawn: Spawn, model: Any) -> None:
    spawn().start(0).allocate(100 * MIB)
    other = spawn().start(1)
    assert other.memory_info() == (512 * MIB - CONTEXT, 512 * MIB)
    assert other.check("cuDeviceGetCount", OUT_I32) == [2]


def test_the_peak_can_be_reset(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start()
    cuda.free(cuda.allocate(100 * MIB))
    assert model.usage().peak_used_bytes == CONTEXT + 100 * MIB
    fake_gpu.reset_peak(model.path)
    assert model.usage().peak_used_bytes == CONTEXT
    cuda.allocate(10 * MIB)
    assert model.usage().peak_used_bytes == CONTEXT + 10 * MIB
    assert cuda.call("cuInit", u32(0)).rc == 0
