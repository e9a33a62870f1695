"""Laws of the fit engine, on random clusters small enough to compare with brute force."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from fracgpu.controller.fit.engine import fit
from fracgpu.controller.fit.ledger import free_amounts
from fracgpu.controller.fit.views import DeviceRequest, GpuView, Holding, Misfit, Placement

GIB = 1024**3


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[GpuView], list[Holding], list[DeviceRequest]]:
    """Up to two nodes with three GPUs, some holdings (perhaps too many) and up to three requests."""
    gpus = [
        GpuView(
            node=f"n{node}",
            pool=f"n{node}",
            device=f"g{index}",
            physical_memory_bytes=(memory := draw(st.sampled_from([8, 10, 16]))) * GIB,
            memory_bytes=memory * draw(st.sampled_from([1, 1, 2])) * GIB,
            slots=draw(st.integers(0, 3)),
            healthy=draw(st.sampled_from([True, True, True, False])),
        )
        for node in range(draw(st.integers(1, 2)))
        for index in range(draw(st.integers(0, 3)))
    ]
    holdings = [
        Holding(
            pool=f"n{draw(st.integers(0, 1))}",
            device=f"g{draw(st.integers(0, 2))}",
            memory_bytes=draw(st.integers(1, 9)) * GIB,
            cores=draw(st.sampled_from([0, 30, 60])),
        )
        for _ in range(draw(st.integers(0, 4)))
    ]
    requests = [
        DeviceRequest(
            claim="c",
            name=f"r{index}",
            count=draw(st.integers(1, 2)),
            requests={"memory": draw(st.integers(1, 10)) * GIB, "cores": draw(st.sampled_from([0, 40, 80]))},
            gpu_policy=draw(st.sampled_from(["Binpack", "Spread"])),
        )
        for index in range(draw(st.integers(1, 3)))
    ]
    return gpus, holdings, requests


CLUSTER = clusters()
POLICIES = st.sampled_from(["Binpack", "Spread"])


def _as_holdings(placement: Placement) -> list[Holding]:
    return [
        Holding(
            pool=device.pool,
            device=device.device,
            memory_bytes=device.amounts.memory_bytes,
            cores=device.amounts.cores,
            slots=device.amounts.slots,
        )
        for device in placement.devices
    ]


def _possible(gpus: Sequence[GpuView], holdings: Sequence[Holding], requests: Sequence[DeviceRequest]) -> bool:
    """Brute force: does any assignment on one node respect every limit?"""
    units = [request for request in requests for _ in range(request.count)]
    for node in {gpu.node for gpu in gpus}:
        own = [gpu for gpu in gpus if gpu.node == node and gpu.healthy]
        for chosen in itertools.product(own, repeat=len(units)):
            pairs = list(zip((unit.name for unit in units), (gpu.key for gpu in chosen), strict=True))
            if len(set(pairs)) == len(pairs) and _respects(list(zip(units, chosen, strict=True)), holdings):
                return True
    return False


def _respects(chosen: list[tuple[DeviceRequest, GpuView]], holdings: Sequence[Holding]) -> bool:
    free = free_amounts([gpu for _, gpu in chosen], holdings)
    for request, gpu in chosen:
        if int(request.requests["memory"]) > gpu.physical_memory_bytes:
            return False
        wanted = request.amounts_on(gpu)
        if any(free[gpu.key].lacks(wanted)):
            return False
        free[gpu.key] = free[gpu.key].minus(wanted)
    return True


@settings(max_examples=150, deadline=None)
@given(CLUSTER, POLICIES)
def test_never_over_allocates_and_keeps_counts_distinct(cluster, policy) -> None:  # type: ignore[no-untyped-def]
    gpus, holdings, requests = cluster
    answer = fit(requests, gpus, holdings, node_policy=policy)
    if isinstance(answer, Misfit):
        return
    by_key = {gpu.key: gpu for gpu in gpus}
    names = [request.name for request in requests for _ in range(request.count)]
    assert [device.request for device in answer.devices] == names
    assert len({(device.request, device.pool, device.device) for device in answer.devices}) == len(names)
    before = free_amounts(gpus, holdings)
    after = free_amounts(gpus, [*holdings, *_as_holdings(answer)])
    for device in answer.devices:
        gpu = by_key[device.pool, device.device]
        assert gpu.node == answer.node
        assert gpu.healthy
        assert device.amounts.memory_bytes <= gpu.physical_memory_bytes
        left = after[gpu.key]
        assert left.memory_bytes >= 0
        assert left.slots >= 0
        assert left.cores >= min(0, before[gpu.key].cores)


@settings(max_examples=150, deadline=None)
@given(CLUSTER)
def test_finds_a_placement_exactly_when_there_is_one(cluster) -> None:  # type: ignore[no-untyped-def]
    gpus, holdings, requests = cluster
    assert isinstance(fit(requests, gpus, holdings), Placement) is _possible(gpus, holdings, requests)


@settings(max_examples=100, deadline=None)
@given(CLUSTER, POLICIES, st.randoms(use_true_random=False))
def test_order_of_the_facts_does_not_matter(cluster, policy, random) -> None:  # type: ignore[no-untyped-def]
    gpus, holdings, requests = cluster
    expected = fit(requests, gpus, holdings, node_policy=policy)
    shuffled_gpus, shuffled_holdings = list(gpus), list(holdings)
    random.shuffle(shuffled_gpus)
    random.shuffle(shuffled_holdings)
    assert fit(requests, shuffled_gpus, shuffled_holdings, node_policy=policy) == expected


@settings(max_examples=100, deadline=None)
@given(CLUSTER, st.data())
def test_freeing_never_turns_a_fit_into_a_misfit(cluster, data) -> None:  # type: ignore[no-untyped-def]
    gpus, holdings, requests = cluster
    if not holdings or isinstance(fit(requests, gpus, holdings), Misfit):
        return
    freed = data.draw(st.integers(0, len(holdings) - 1))
    fewer = holdings[:freed] + holdings[freed + 1 :]
    assert isinstance(fit(requests, gpus, fewer), Placement)


@settings(max_examples=100, deadline=None)
@given(CLUSTER)
def test_a_misfit_always_has_distinct_reasons(cluster) -> None:  # type: ignore[no-untyped-def]
    gpus, holdings, requests = cluster
    answer = fit(requests, gpus, holdings)
    if isinstance(answer, Misfit):
        assert answer.reasons
        assert len(set(answer.reasons)) == len(answer.reasons)
        assert all(reason.message for reason in answer.reasons)


@settings(max_examples=60, deadline=None)
@given(CLUSTER)
def test_placing_one_after_another_ends_full_and_never_over(cluster) -> None:  # type: ignore[no-untyped-def]
    gpus, holdings, requests = cluster
    request = requests[0]
    for _ in range(200):
        answer = fit([request], gpus, holdings)
        if isinstance(answer, Misfit):
            break
        holdings = [*holdings, *_as_holdings(answer)]
    else:
        raise AssertionError("placed without end")
    assert not _possible(gpus, holdings, [request])
    before, after = free_amounts(gpus, cluster[1]), free_amounts(gpus, holdings)
    for key, left in after.items():
        assert left.memory_bytes >= min(0, before[key].memory_bytes)
        assert left.slots >= min(0, before[key].slots)
