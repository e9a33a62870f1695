"""The stand-in's own search: it finds a place exactly where the fit engine does, and never gives too much."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracgpu.controller.fit.engine import place
from fracgpu.controller.fit.ledger import Ledger
from fracgpu.controller.fit.views import Constraint, Demand, DeviceRequest, GpuView, Holding, Taint, Toleration
from fracgpu.driver.quantity import MIB
from fracgpu.sim.control import first_fit
from fracgpu.sim.control.first_fit import FirstFit, SearchTimeoutError
from fracgpu.sim.control.shared_devices import SharedDevice, Use

CARD = 8
TAINT = Taint(key="sold")


def device(name: str, numa: int, tainted: bool) -> SharedDevice:
    """A GPU of 8 MiB and 100 cores for two sharers, with the plugin's policies."""
    view = GpuView(
        node="n",
        pool="n",
        device=name,
        physical_memory_bytes=CARD * MIB,
        memory_bytes=CARD * MIB,
        slots=2,
        attributes={"numaNode": numa, "uuid": name},
        taints=(TAINT,) if tainted else (),
    )

    def capacity(value: str, default: str, most: str, step: str) -> dict[str, object]:
        limits = {"min": "0", "max": most, "step": step}
        return {"value": value, "requestPolicy": {"default": default, "validRange": limits}}

    memory = f"{CARD}Mi"
    return SharedDevice(
        view=view,
        shared=True,
        capacity={
            "memory": capacity(memory, memory, memory, "1Mi"),
            "cores": capacity("100", "0", "100", "1"),
            "slots": capacity("2", "1", "1", "1"),
        },
    )


@st.composite
def requests(draw: st.DrawFn, name: str) -> DeviceRequest:
    asked: dict[str, str | int] = {}
    if draw(st.integers(0, 9)):
        asked["memory"] = f"{draw(st.integers(1, CARD))}Mi"
    if draw(st.booleans()):
        asked["cores"] = draw(st.sampled_from([10, 50, 60, 100]))
    tolerations = (Toleration(key="sold", operator="Exists"),) if draw(st.booleans()) else ()
    count = draw(st.sampled_from([1, 1, 1, 2]))
    return DeviceRequest(claim="c", name=name, count=count, requests=asked, tolerations=tolerations)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[SharedDevice], list[Holding], Demand]:
    count = draw(st.integers(1, 4))
    devices = [
        device(f"gpu-{at}", draw(st.integers(0, 1)), draw(st.integers(0, 3)) == 0)
        for at in draw(st.permutations(range(count)))
    ]
    held = [
        Holding(pool="n", device=one.view.device, memory_bytes=draw(st.integers(1, CARD)) * MIB, cores=cores, slots=1)
        for one in devices
        if (cores := draw(st.sampled_from([-1, 0, 50]))) >= 0
    ]
    names = [[f"r{at}/s0", f"r{at}/s1"] if draw(st.booleans()) else [f"r{at}"] for at in range(draw(st.integers(1, 3)))]
    choices = tuple(tuple(draw(requests(name)) for name in alternatives) for alternatives in names)
    constraints = draw(
        st.sampled_from(
            [
                (),
                (),
                (Constraint(claim="c", attribute="numaNode"),),
                (Constraint(claim="c", attribute="uuid", kind="distinct"),),
            ]
        )
    )
    return devices, held, Demand(choices=choices, constraints=constraints)


def use_of(held: list[Holding]) -> Use:
    use = Use()
    for one in held:
        amounts = {"memory": one.memory_bytes, "cores": one.cores, "slots": one.slots}
        use.consumed[one.key].update(amounts)
    return use


@settings(max_examples=400, deadline=None)
@given(cases())
def test_it_agrees_with_the_fit_engine_and_never_gives_too_much(
    case: tuple[list[SharedDevice], list[Holding], Demand],
) -> None:
    devices, held, demand = case
    ledger = Ledger()
    ledger.set_gpus("n", [one.view for one in devices])
    for at, one in enumerate(held):
        ledger.hold(str(at), [one])
    shares = FirstFit(devices, use_of(held), demand).run()
    assert (shares is not None) == (place(demand, ledger) is not None)
    if shares is None:
        return
    total = {one.key: Counter(use_of(held).consumed[one.key]) for one in devices}
    for share in shares:
        assert share.consumed is not None
        total[share.device.key].update(share.consumed)
    assert all(amount <= one.total(name) for one in devices for name, amount in total[one.key].items())
    taken = Counter(share.request.name for share in shares)
    assert [sum(taken[one.name] == one.count for one in choice) for choice in demand.choices] == [1] * len(
        demand.choices
    )
    assert sum(taken.values()) == len(shares)


def test_it_gives_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_fit, "_MOST_STEPS", 1000)
    devices = [device(f"gpu-{at:02}", 0, tainted=False) for at in range(12)]
    request = DeviceRequest(claim="c", name="r", count=6, requests={"memory": "1Mi"})
    impossible = DeviceRequest(claim="c", name="s", requests={"cores": 100})
    use = Use()
    for one in devices:
        use.consumed[one.key]["cores"] = 1
    with pytest.raises(SearchTimeoutError):
        FirstFit(devices, use, Demand(choices=((request,), (impossible,)))).run()
