"""A thousand random claims on one node that crashes, restarts, reboots and is updated all the time.

The kubelet is played by the test: it prepares, asks again after a crash, takes back, and sometimes never comes back. At
every step the node keeps what it promised; in the end, nothing of a thousand claims is left.
"""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.gpu import scaled_cores
from fracgpu.driver.kill_points import watched
from fracgpu.kubeletplugin.janitor.janitor import GRACE_SECONDS
from fracgpu.kubeletplugin.prepare.checkpoint import EntryState
from tests.kubeletplugin.prepare.crash import Countdown, killed_at

GIB = 1024**3
CLAIMS = 1000
# How many of them may exist at the same time.
CROWD = 12
# A Prepare of one allocation passes some thirty kill points, an Unprepare some ten.
FURTHEST_POINT = {"prepare": 40, "unprepare": 12}
VERSIONS = 3


class Crash(BaseException):
    """The process ends here."""


class Node:
    """The node, what its kubelet was told, and the dice."""

    def __init__(self, world: Any, hold: Callable[..., Any], seed: int) -> None:
        self.world = world
        self.hold = hold
        self.dice = random.Random(seed)  # noqa: S311 (nothing here is secret)
        self.seen: Counter[str] = Counter()
        self.created = 0
        self.claims: dict[str, Any] = {}
        # The answers of those Prepares that the kubelet heard, by claim.
        self.handed: dict[str, Any] = {}
        self.holders: list[Any] = []
        world.configure(memory_scale=Decimal("1.5"), cores_scale=Decimal("1.3"), slots=4)
        self.restart()

    def restart(self) -> None:
        self.preparer = self.world.preparer()
        self.janitor = self.world.janitor(self.preparer)

    def step(self) -> None:
        actions: dict[Callable[[], None], float] = {
            self.create: 6 if len(self.claims) < CROWD and self.created < CLAIMS else 0,
            self.prepare: 8,
            self.unprepare: 5,
            self.start_process: 1,
            self.end_process: 1.5,
            self.lose: 0.6,
            self.update: 0.4,
            self.reboot: 0.15,
            self.sweep: 0.8,
        }
        self.dice.choices(list(actions), list(actions.values()))[0]()
        self.check()

    def create(self) -> None:
        self.created += 1
        name = f"c{self.created}"
        kind = self.dice.choice(["share", "share", "share", "shares", "whole", "admin"])
        changes = {"class_config": {"memory": "Whole"}} if kind == "whole" else {}
        shares = [self.share(number, kind) for number in range(self.dice.randint(2, 3) if kind == "shares" else 1)]
        self.claims[name] = self.world.claim(name, *shares, **changes)
        self.seen[kind] += 1

    def share(self, number: int, kind: str) -> dict[str, Any]:
        # The last one is not on this node.
        device = self.dice.choice(["gpu-11111111", "gpu-22222222"] * 8 + ["gpu-33333333"])
        memory = 44 * GIB if kind == "whole" else self.dice.choice([2**20, GIB, 8 * GIB, 20 * GIB, 45 * GIB])
        return {
            "request": f"r{number}",
            "device": device,
            "memory": memory,
            "cores": 0 if kind == "whole" else self.dice.choice([0, 1, 30, 60]),
            "admin": kind == "admin",
        }

    def prepare(self) -> None:
        name = self.pick(self.claims)
        if name is None:
            return
        # What the kubelet has been told once it is told again, whoever crashed in between.
        refusals = self.seen["prepare refused"]
        answer = self.attempt("prepare", lambda: self.preparer.prepare(self.claims[name]))
        assert name not in self.handed or self.seen["prepare refused"] == refusals
        if answer is not None:
            assert self.handed.setdefault(name, answer.devices) == answer.devices

    def unprepare(self) -> None:
        name = self.pick(self.claims)
        if name is None:
            return
        self.handed.pop(name, None)
        answer = self.attempt("unprepare", lambda: self.preparer.unprepare(self.claims[name]))
        if answer is not None:
            self.seen["deferred"] += answer.deferred
            # Most pods take their claim with them; some claims wait for another pod.
            if self.dice.random() < 0.8:
                del self.claims[name]
                self.world.cluster.claims.pop(("ns", name))

    def attempt(self, op: str, call: Callable[[], Any]) -> Any:
        """Return what `call` answers, None when the plugin died of it or refused."""
        fate, point = self.dice.random(), self.dice.randint(1, FURTHEST_POINT[op])
        if fate < 0.08:
            self.seen[f"{op} killed"] += killed_at(point, lambda: self.tolerant(call))
            self.restart()
            return None
        try:
            if fate > 0.4:
                answer = call()
            else:
                with watched(Countdown(point, self.crash)):
                    answer = call()
        except Crash:
            self.seen[f"{op} crashed"] += 1
            self.restart()
            return None
        except FracgpuError:
            self.seen[f"{op} refused"] += 1
            return None
        self.seen[op] += 1
        return answer

    def crash(self) -> None:
        raise Crash

    def tolerant(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except FracgpuError:
            self.seen["refused in a copy"] += 1

    def start_process(self) -> None:
        name = self.pick(self.handed)
        if name is not None:
            entry = self.world.entries()[self.claims[name].uid]
            directory = self.world.options.run_dir / "allocations" / self.dice.choice(entry.allocations).allocation_id
            self.holders.append(self.hold(directory / "state", 4096 * self.dice.randint(1, 500)))

    def end_process(self) -> None:
        if self.holders:
            self.holders.pop(self.dice.randrange(len(self.holders))).end()

    def lose(self) -> None:
        """A claim goes from the API server, and the kubelet forgets it: its Unprepare never comes."""
        name = self.pick(self.claims)
        if name is not None:
            del self.claims[name]
            self.handed.pop(name, None)
            self.world.cluster.claims.pop(("ns", name))
            self.seen["lost"] += 1

    def update(self) -> None:
        """The plugin ends and one of another version starts."""
        self.world.libraries[0].write_bytes(b"shim %d" % self.dice.randrange(VERSIONS))
        self.restart()
        self.seen["updated"] += 1

    def reboot(self) -> None:
        for holder in self.holders:
            holder.end()
        self.holders.clear()
        for volatile in (self.world.options.cdi_dir, self.world.options.run_dir):
            shutil.rmtree(volatile, ignore_errors=True)
        self.restart()
        # The kubelet starts its pods again, and gives none of them up because of that.
        for name, devices in self.handed.items():
            assert self.preparer.prepare(self.claims[name]).devices == devices
        self.seen["rebooted"] += 1

    def sweep(self) -> None:
        self.world.clock.seconds += self.dice.choice([10, GRACE_SECONDS])
        self.seen["swept"] += self.janitor.sweep()

    def pick(self, names: dict[str, Any]) -> str | None:
        return self.dice.choice(sorted(names)) if names else None

    def check(self) -> None:
        world = self.world
        entries = world.entries()
        records = [record for entry in entries.values() for record in entry.allocations]
        for gpu in world.inventory.gpus:
            here = [record for record in records if record.gpu_uuid == gpu.uuid]
            assert sum(record.memory_bytes for record in here) <= gpu.scaled_memory_bytes(world.options.memory_scale)
            assert sum(record.cores for record in here) <= scaled_cores(world.options.cores_scale)
            assert sum(record.slots for record in here) <= world.options.slots
        identifiers = [record.allocation_id for record in records]
        assert len(set(identifiers)) == len(identifiers)
        for name in self.handed:
            ref = self.claims[name]
            entry = entries[ref.uid]
            assert entry.state is EntryState.PREPARED
            assert entry.library_digest.encode() in world.spec(ref)
            assert (world.options.state_dir / "lib" / entry.library_digest / "libcuda.so.1").exists()
            for record in entry.allocations:
                directory = world.options.run_dir / "allocations" / record.allocation_id
                assert {"config", "state"} <= {path.name for path in directory.iterdir()}

    def finish(self) -> None:
        """All pods end; the kubelet takes back what it still knows."""
        for holder in self.holders:
            holder.end()
        self.restart()
        for ref in self.claims.values():
            self.preparer.unprepare(ref)
        self.world.cluster.claims.clear()
        # Interceptors are looked at from when the last claim that names them has gone.
        self.world.wait_and_sweep(self.janitor)
        self.world.wait_and_sweep(self.janitor)


def test_a_thousand_random_claims_keep_their_promises_and_leave_nothing(world: Any, hold: Any) -> None:
    node = Node(world, hold, seed=3)
    while node.created < CLAIMS:
        node.step()
    node.finish()
    assert world.entries() == {}
    assert world.residue() == []
    state = world.options.state_dir
    assert {path.name for path in state.iterdir()} == {"checkpoint.json", "node.lock", "lib"}
    assert [path.name for path in (state / "lib").iterdir()] == [node.preparer.library_digest]
    assert {path.name for path in world.options.run_dir.glob("*")} <= {"allocations"}
    # The history was one worth surviving.
    for kind, least in {
        "prepare": 500,
        "unprepare": 500,
        "prepare crashed": 80,
        "unprepare crashed": 50,
        "prepare killed": 20,
        "unprepare killed": 20,
        "prepare refused": 50,
        "deferred": 20,
        "lost": 50,
        "updated": 30,
        "rebooted": 10,
        "swept": 50,
    }.items():
        assert node.seen[kind] >= least, (kind, node.seen)
