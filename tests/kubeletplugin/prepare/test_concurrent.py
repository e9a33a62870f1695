"""Two plugins of a rolling update, with many calls and a janitor each: nothing is lost, nothing given away twice."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fracgpu.kubeletplugin.errors import ClaimRefused
from fracgpu.kubeletplugin.prepare.checkpoint import EntryState

GIB = 1024**3
CALLERS = 16
ROUNDS = 6
# Of 44 GiB, 8 each.
FIT = 5


class Held:
    """How many callers have what they asked for, and how many there were at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = self.most = self.times = 0

    def add(self, number: int) -> None:
        with self._lock:
            self._now += number
            self.most = max(self.most, self._now)
            self.times += number > 0


def call(world: Any, preparers: tuple[Any, Any], number: int, held: Held) -> None:
    """Prepare, look, take back, like one pod after another; each time by whichever plugin the kubelet would call."""
    ref = world.claim(f"c{number}", {"memory": 8 * GIB, "cores": 5})
    for turn in range(ROUNDS):
        first, second = preparers[(number + turn) % 2], preparers[turn % 2]
        try:
            first.prepare(ref)
        except ClaimRefused:
            assert ref.uid not in world.entries()
            continue
        held.add(1)
        assert world.entries()[ref.uid].state is EntryState.PREPARED
        assert ref.uid.encode() in world.spec(ref)
        assert sorted(path.name for path in world.allocation(ref).iterdir()) == ["config", "state"]
        held.add(-1)
        assert second.unprepare(ref).known
        assert ref.uid not in world.entries()
        assert not world.allocation(ref).exists()


def test_two_plugins_and_their_janitors_at_work_at_once(world: Any) -> None:
    former = world.preparer()
    newer = world.root / "newer"
    shutil.copytree(world.libraries[0].parent, newer)
    world.libraries = tuple(newer / library.name for library in world.libraries)
    world.libraries[0].write_bytes(b"a newer shim")
    preparers = (former, world.preparer())
    janitors = [world.janitor(preparer, grace_seconds=0) for preparer in preparers]
    ended, held = threading.Event(), Held()

    def sweep(janitor: Any) -> None:
        while not ended.is_set():
            janitor.sweep()

    with ThreadPoolExecutor(CALLERS + len(janitors)) as pool:
        sweeping = [pool.submit(sweep, janitor) for janitor in janitors]
        calls = [pool.submit(call, world, preparers, number, held) for number in range(CALLERS)]
        try:
            for one in calls:
                one.result()
        finally:
            ended.set()
        for one in sweeping:
            one.result()
    assert held.most <= FIT
    assert held.times >= FIT
    assert world.residue() == []
    assert world.entries() == {}
