"""Memory that several processes hold costs one of their accounts, once, for as long as the GPU has it.

The modelled GPU says what is really there, the state file what is charged; after every step the two are compared.
"""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.fake_gpu import read_usage
from tests.native.fake.cuda_process import MIB, OUT_OF_MEMORY, OUT_U64, CudaProcess, i32, memory, u64
from tests.native.fake.sharing import (
    FILE_DESCRIPTOR,
    close,
    create,
    exported,
    handle_of,
    import_from,
    mapped,
    opened,
)

UUID = "GPU-11111111-2222-3333-4444-555555555555"
LIMIT_MIB = 1024
SIZE = 400 * MIB
BIG = 700 * MIB


@dataclass
class Account:
    """The processes of one container with one limit on the first GPU."""

    prefix: Any
    stack: ExitStack

    def start(self, device: int = 0) -> CudaProcess:
        return self.stack.enter_context(CudaProcess(self.prefix.environment())).start(device)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened_here:
        yield opened_here


@pytest.fixture
def account(prefix: Any, stack: ExitStack) -> Account:
    prefix.allocate(UUID, LIMIT_MIB)
    return Account(prefix, stack)


@pytest.fixture
def other_account(prefix: Any, stack: ExitStack, tmp_path: Path) -> Account:
    """Another container on the same machine."""
    other = type(prefix)(directory=tmp_path / "other", machine=prefix.machine)
    (other.directory / "driver").mkdir(parents=True)
    for library in ("libcuda.so.1", "libnvidia-ml.so.1", "driver/libcuda.so.1", "driver/libnvidia-ml.so.1"):
        (other.directory / library).symlink_to((prefix.directory / library).readlink())
    other.allocate(UUID, LIMIT_MIB)
    return Account(other, stack)


def on_gpu(account: Account) -> int:
    return int(read_usage(account.prefix.machine)[0].used_bytes)


def charged(process: CudaProcess) -> int:
    """What the account says, as any of its processes sees it."""
    free, total = process.memory_info()
    assert total == LIMIT_MIB * MIB
    return total - free


def fits(process: CudaProcess, size: int) -> bool:
    reply = process.call("cuMemAlloc_v2", OUT_U64, u64(size))
    assert reply.rc in (0, OUT_OF_MEMORY)
    if reply.rc == 0:
        process.free(reply.out[0])
    return bool(reply.rc == 0)


def agree(account: Account, process: CudaProcess, size: int) -> None:
    """The GPU holds `size`, the account is charged with it, and just the rest can be had."""
    assert on_gpu(account) == size
    assert not fits(process, LIMIT_MIB * MIB - size + 2 * MIB)
    assert fits(process, LIMIT_MIB * MIB - size)


@dataclass
class Shared:
    """One piece of memory that the exporter made and the importer has as well, by either way."""

    way: str
    exporter: CudaProcess
    importer: CudaProcess
    own: int
    imported: int

    def let_go_here(self) -> None:
        self.exporter.check("cuMemRelease" if self.way == "descriptor" else "cuMemFree_v2", u64(self.own))

    def let_go_there(self) -> None:
        self.importer.check("cuMemRelease" if self.way == "descriptor" else "cuIpcCloseMemHandle", u64(self.imported))


Share = Callable[[CudaProcess, CudaProcess], Shared]


@pytest.fixture(params=["descriptor", "handle"])
def share(request: pytest.FixtureRequest) -> Share:
    def by_descriptor(exporter: CudaProcess, importer: CudaProcess) -> Shared:
        own = create(exporter, SIZE)
        descriptor = exported(exporter, own)
        imported = import_from(importer, exporter.pid, descriptor)
        close(exporter, descriptor)
        return Shared("descriptor", exporter, importer, own, imported)

    def by_handle(exporter: CudaProcess, importer: CudaProcess) -> Shared:
        own = exporter.allocate(SIZE)
        return Shared("handle", exporter, importer, own, opened(importer, handle_of(exporter, own)))

    return by_descriptor if request.param == "descriptor" else by_handle


def test_everybody_has_everybodys_buffer(account: Account) -> None:
    """As NCCL does it within one container: each rank imports and maps the buffers of all others."""
    ranks = [account.start() for _ in range(3)]
    buffers = [create(rank, 100 * MIB) for rank in ranks]
    descriptors = [exported(rank, buffer) for rank, buffer in zip(ranks, buffers, strict=True)]
    imports = {
        (rank.pid, peer.pid): import_from(rank, peer.pid, descriptor)
        for rank in ranks
        for peer, descriptor in zip(ranks, descriptors, strict=True)
        if rank is not peer
    }
    agree(account, ranks[0], 300 * MIB)
    for rank in ranks:
        for (holder, _), imported in imports.items():
            if holder == rank.pid:
                mapped(rank, imported, 100 * MIB)
                rank.check("cuMemRelease", u64(imported))
    agree(account, ranks[1], 300 * MIB)
    for rank in ranks[:2]:
        rank.kill()
    # The last one has the others' buffers still mapped.
    agree(account, ranks[2], 300 * MIB)
    ranks[2].kill()
    agree(account, account.start(), 0)


def test_the_exporter_lets_go_first(account: Account, share: Share) -> None:
    exporter, importer, third = account.start(), account.start(), account.start()
    shared = share(exporter, importer)
    agree(account, third, SIZE)
    shared.let_go_here()
    agree(account, third, SIZE)
    shared.let_go_there()
    # The exporter, which pays, has not looked since.
    agree(account, third, 0)
    assert charged(exporter) == 0


def test_the_importer_lets_go_first(account: Account, share: Share) -> None:
    exporter, importer = account.start(), account.start()
    shared = share(exporter, importer)
    shared.let_go_there()
    agree(account, importer, SIZE)
    shared.let_go_here()
    agree(account, importer, 0)


def test_the_exporter_is_killed(account: Account, share: Share) -> None:
    exporter, importer, third = account.start(), account.start(), account.start()
    shared = share(exporter, importer)
    exporter.allocate(200 * MIB)
    exporter.kill()
    agree(account, third, SIZE)
    shared.let_go_there()
    agree(account, third, 0)


def test_the_exporter_is_killed_after_it_let_go(account: Account, share: Share) -> None:
    exporter, importer, third = account.start(), account.start(), account.start()
    shared = share(exporter, importer)
    shared.let_go_here()
    exporter.kill()
    agree(account, third, SIZE)
    importer.kill()
    agree(account, third, 0)


def test_the_importer_is_killed(account: Account, share: Share) -> None:
    exporter, importer, third = account.start(), account.start(), account.start()
    shared = share(exporter, importer)
    importer.kill()
    agree(account, third, SIZE)
    shared.let_go_here()
    agree(account, third, 0)


def test_the_importer_is_killed_after_the_exporter_let_go(account: Account, share: Share) -> None:
    exporter, importer, third = account.start(), account.start(), account.start()
    shared = share(exporter, importer)
    shared.let_go_here()
    importer.kill()
    agree(account, third, 0)
    assert charged(exporter) == 0


def test_a_new_process_in_the_place_of_the_exporter_is_another_one(account: Account, share: Share) -> None:
    exporter, importer = account.start(), account.start()
    shared = share(exporter, importer)
    exporter.kill()
    successors = [account.start() for _ in range(3)]
    agree(account, successors[0], SIZE)
    fresh = share(successors[0], successors[1])
    assert not fits(successors[2], BIG)
    shared.let_go_there()
    agree(account, successors[2], SIZE)
    fresh.let_go_here()
    agree(account, successors[2], SIZE)
    fresh.let_go_there()
    agree(account, successors[2], 0)


def test_an_import_costs_another_account_nothing(account: Account, other_account: Account, share: Share) -> None:
    exporter, importer = account.start(), other_account.start()
    shared = share(exporter, importer)
    agree(account, exporter, SIZE)
    assert charged(importer) == 0
    assert fits(importer, LIMIT_MIB * MIB)
    shared.let_go_there()
    agree(account, exporter, SIZE)
    shared.let_go_here()
    agree(account, exporter, 0)


def test_an_account_does_not_pay_for_what_only_another_holds(
    account: Account, other_account: Account, share: Share
) -> None:
    """Nobody in the one container can see what another one holds: there the host's audit has to look."""
    exporter, importer = account.start(), other_account.start()
    shared = share(exporter, importer)
    shared.let_go_here()
    assert (charged(exporter), charged(importer), on_gpu(account)) == (0, 0, SIZE)
    own = importer.allocate(SIZE)
    shared.let_go_there()
    assert charged(importer) == SIZE
    importer.free(own)
    assert on_gpu(account) == 0


def test_memory_in_flight_is_charged_to_who_takes_it(account: Account) -> None:
    exporter, importer, third = account.start(), account.start(), account.start()
    handle = create(exporter, SIZE)
    descriptor = exported(exporter, handle)
    exporter.check("cuMemRelease", u64(handle))
    first = import_from(importer, exporter.pid, descriptor)
    agree(account, third, SIZE)
    second = import_from(third, exporter.pid, descriptor)
    close(exporter, descriptor)
    agree(account, third, SIZE)
    importer.check("cuMemRelease", u64(first))
    agree(account, third, SIZE)
    third.check("cuMemRelease", u64(second))
    agree(account, third, 0)


def test_an_export_that_nobody_imports_costs_nothing_afterwards(account: Account) -> None:
    process, other = account.start(), account.start()
    for _ in range(300):
        handle = create(process, SIZE)
        close(process, exported(process, handle))
        process.check("cuMemRelease", u64(handle))
    agree(account, other, 0)


def test_importing_ones_own(account: Account) -> None:
    process, other = account.start(), account.start()
    handle = create(process, SIZE)
    descriptor = exported(process, handle)
    (again,) = process.check("cuMemImportFromShareableHandle", OUT_U64, u64(descriptor), i32(FILE_DESCRIPTOR))
    close(process, descriptor)
    agree(account, other, SIZE)
    process.check("cuMemRelease", u64(handle))
    agree(account, other, SIZE)
    process.check("cuMemRelease", u64(again))
    agree(account, other, 0)


def test_closing_every_descriptor_and_forking_change_nothing(account: Account, share: Share) -> None:
    exporter, importer, third = account.start(), account.start(), account.start()
    shared = share(exporter, importer)
    child = importer.python("""
child = os.fork()
if child == 0:
    os.close(0); os.close(1)
    import signal
    signal.pause()
result = child
""")
    for process in (exporter, importer):
        process.python("os.closerange(3, 500); result = 0")
    shared.let_go_here()
    agree(account, third, SIZE)
    importer.kill()
    # The child has what the parent's fork gave it, which are no references to the GPU's memory.
    agree(account, third, 0)
    os.kill(child, 9)


def test_an_imported_handle_is_never_refused(account: Account) -> None:
    exporter, importer = account.start(), account.start()
    imported = import_from(importer, exporter.pid, exported(exporter, create(exporter, LIMIT_MIB * MIB)))
    address = mapped(importer, imported, LIMIT_MIB * MIB)
    importer.write(address + BIG, b"far")
    importer.check("cuMemRelease", u64(imported))
    importer.check("cuMemUnmap", u64(address), u64(LIMIT_MIB * MIB))
    assert on_gpu(account) == charged(importer) == LIMIT_MIB * MIB
    assert not fits(importer, 2 * MIB)


def reserved(process: CudaProcess, pool: int) -> int:
    return int(process.check("cuMemPoolGetAttribute", u64(pool), i32(5), OUT_U64)[0])


@pytest.mark.parametrize("setter", ["cuDeviceSetMemPool", "cuMemSetMemPool"])
def test_another_current_pool_is_seen_at_once(account: Account, setter: str) -> None:
    process = account.start()
    (pool,) = process.check("cuMemPoolCreate", OUT_U64, memory(struct.pack("<iiiiQQ", 1, 0, 1, 0, 0, 0) + bytes(56)))
    (default,) = process.check("cuDeviceGetDefaultMemPool", OUT_U64, i32(0))
    process.check("cuMemAllocAsync", OUT_U64, u64(64 * MIB), u64(0))
    agree(account, process, 64 * MIB)
    location = memory(struct.pack("<ii", 1, 0))
    arguments = (i32(0), u64(pool)) if setter == "cuDeviceSetMemPool" else (location, i32(1), u64(pool))
    process.check(setter, *arguments)
    process.check("cuMemAllocAsync", OUT_U64, u64(96 * MIB), u64(0))
    assert (reserved(process, default), reserved(process, pool)) == (64 * MIB, 96 * MIB)
    agree(account, process, 160 * MIB)
