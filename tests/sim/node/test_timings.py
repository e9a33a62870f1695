"""How long the node waits, and how long the real one does."""

from itertools import islice

from fracgpu.sim.node.timings import KUBELET_TIMINGS, backoff, jittered


def test_delays_double_up_to_the_longest() -> None:
    assert list(islice(backoff(KUBELET_TIMINGS.registration_retry), 10)) == [0.5, 1, 2, 4, 8, 16, 32, 64, 122, 122]
    assert list(islice(backoff(KUBELET_TIMINGS.wipe_retry), 10)) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]


def test_syncs_are_spread_over_half_their_period() -> None:
    pauses = [jittered(KUBELET_TIMINGS.sync) for _ in range(1000)]
    assert min(pauses) >= 60
    assert max(pauses) <= 90
    assert max(pauses) - min(pauses) > 20
