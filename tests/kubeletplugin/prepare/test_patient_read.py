"""An API server that is away for a moment costs the pod that moment, not the kubelet's next sync of it."""

from typing import Any

import pytest

from fracgpu.driver.kube.errors import Unavailable
from fracgpu.kubeletplugin.errors import ClaimInvalid
from fracgpu.kubeletplugin.prepare import patient_read
from fracgpu.kubeletplugin.prepare.deadline import Deadline
from fracgpu.kubeletplugin.prepare.patient_read import PAUSES_SECONDS, read_patiently


class Server:
    """An API server that is away for the first `away` questions; waiting passes the time of the world's clock."""

    def __init__(self, world: Any, away: int) -> None:
        self.asked = 0
        self.slept: list[float] = []
        self._world, self._away, self._get = world, away, world.cluster.get_claim
        world.cluster.get_claim = self.get_claim

    def get_claim(self, namespace: str, name: str, *, timeout_seconds: float | None = None) -> Any:
        self.asked += 1
        if self.asked <= self._away:
            raise Unavailable("API server", "connection refused", remedy="it is tried again")
        return self._get(namespace, name, timeout_seconds=timeout_seconds)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._world.clock.seconds += seconds


@pytest.fixture
def deadline(world: Any) -> Deadline:
    return Deadline(clock=world.clock)


def test_a_claim_is_read_when_the_server_is_back(world: Any, deadline: Deadline) -> None:
    server = Server(world, away=3)
    ref = world.claim()

    assert read_patiently(world.cluster, ref, deadline, sleep=server.sleep)["metadata"]["uid"] == ref.uid
    assert server.slept == list(PAUSES_SECONDS[:3])


def test_it_is_given_up_while_the_kubelet_still_listens(world: Any, deadline: Deadline) -> None:
    server = Server(world, away=1000)

    with pytest.raises(Unavailable, match="connection refused"):
        read_patiently(world.cluster, world.claim(), deadline, sleep=server.sleep)
    assert server.asked == len(PAUSES_SECONDS) + 1
    assert deadline.remaining_seconds > 20


def test_no_pause_goes_beyond_the_deadline(world: Any) -> None:
    server = Server(world, away=1000)

    with pytest.raises(Unavailable):
        read_patiently(world.cluster, world.claim(), Deadline(1.0, clock=world.clock), sleep=server.sleep)
    assert server.slept == list(PAUSES_SECONDS[:2])


def test_a_claim_that_is_gone_is_said_at_once(world: Any) -> None:
    ref = world.claim()
    server = Server(world, away=0)
    world.cluster.claims.clear()

    with pytest.raises(ClaimInvalid, match="does not exist"):
        world.preparer().prepare(ref)
    assert server.asked == 1


def test_a_prepare_outlasts_a_short_absence(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_read, "PAUSES_SECONDS", (0.0, 0.0))
    ref = world.claim()
    server = Server(world, away=2)

    assert world.preparer().prepare(ref).devices
    assert server.asked == 3
