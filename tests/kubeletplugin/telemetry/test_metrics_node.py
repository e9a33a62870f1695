"""What is so on a node, as metrics."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.driver.usage import GpuMemory
from fracgpu.kubeletplugin.errors import CheckpointInvalid
from fracgpu.kubeletplugin.prepare.checkpoint import ClaimEntry, EntryState
from fracgpu.kubeletplugin.proof.observation import (
    Finding,
    Truth,
)
from tests.kubeletplugin.telemetry.scraped_plugin import (
    GIB,
    SEEN_AT,
    Plugin,
    entry,
    gpu,
    gpu_uuid,
    observed,
    record,
    value,
)


@pytest.fixture
def plugin() -> Plugin:
    return Plugin()


def test_claims_are_counted_by_state_and_no_state_is_absent(plugin: Plugin) -> None:
    plugin.entries = lambda: [entry("a"), entry("b"), entry("c", state=EntryState.PREPARING)]
    samples = plugin.scrape()
    assert value(samples, "fracgpu_claims", state="prepared") == 2
    assert value(samples, "fracgpu_claims", state="preparing") == 1
    assert value(samples, "fracgpu_claims", state="releasing") == 0
    assert value(samples, "fracgpu_checkpoint_readable") == 1


@pytest.mark.parametrize(
    "error", [CheckpointInvalid("checkpoint", "is cut short", remedy="r"), PermissionError(13, "denied")], ids=str
)
def test_a_checkpoint_that_can_not_be_read_shows_as_such_and_hides_nothing_else(
    plugin: Plugin, error: Exception
) -> None:
    def unreadable() -> Iterable[ClaimEntry]:
        raise error

    plugin.entries = unreadable
    plugin.is_(gpus=[gpu()], allocations=[observed(record("a"))])
    samples = plugin.scrape()
    assert value(samples, "fracgpu_checkpoint_readable") == 0
    assert "fracgpu_claims" not in samples
    assert "fracgpu_gpu_memory_allocated_bytes" not in samples
    assert value(samples, "fracgpu_gpu_healthy") == 1
    assert value(samples, "fracgpu_allocation_processes") == 2


def test_a_gpu_shows_what_it_has_what_is_given_away_and_the_overcommit(plugin: Plugin) -> None:
    plugin.entries = lambda: [
        entry("a", record("a", memory_bytes=40 * GIB, cores=100)),
        entry("b", record("b", memory_bytes=20 * GIB), record("b", 1, gpu=1), state=EntryState.RELEASING),
        entry("c", record("c", memory_bytes=0, cores=0, slots=0, admin=True, limited=False)),
    ]
    plugin.is_(gpus=[gpu(0, foreign_processes=2, hidden_processes=1), gpu(1)])
    samples = plugin.scrape()
    first = {"gpu_uuid": gpu_uuid(0), "device": "gpu-11111111"}
    assert value(samples, "fracgpu_gpu_memory_total_bytes", **first) == 44 * GIB + 5
    assert value(samples, "fracgpu_gpu_memory_used_bytes", **first) == 9 * GIB
    assert value(samples, "fracgpu_gpu_memory_capacity_bytes", **first) == 66 * GIB
    assert value(samples, "fracgpu_gpu_memory_allocated_bytes", **first) == 60 * GIB
    assert value(samples, "fracgpu_gpu_cores_allocated_percent", **first) == 130
    assert value(samples, "fracgpu_gpu_cores_capacity_percent", **first) == 200
    assert value(samples, "fracgpu_gpu_slots_allocated", **first) == 2
    assert value(samples, "fracgpu_gpu_slots_capacity", **first) == 10
    assert value(samples, "fracgpu_gpu_foreign_processes", **first) == 2
    assert value(samples, "fracgpu_gpu_hidden_processes", **first) == 1
    assert value(samples, "fracgpu_gpu_memory_allocated_bytes", device="gpu-22222222") == 8 * GIB


def test_a_gpu_without_claims_has_given_away_nothing_rather_than_no_series(plugin: Plugin) -> None:
    plugin.is_(gpus=[gpu()])
    assert value(plugin.scrape(), "fracgpu_gpu_memory_allocated_bytes", device="gpu-11111111") == 0


def test_a_lost_gpu_is_unhealthy_and_claims_no_memory(plugin: Plugin) -> None:
    plugin.entries = lambda: [entry("a", record("a"), record("a", 1, gpu=1))]
    plugin.is_(gpus=[gpu(0, healthy=False, memory=GpuMemory(0, 0, 0))])
    samples = plugin.scrape()
    assert value(samples, "fracgpu_gpu_healthy", device="gpu-11111111") == 0
    assert "fracgpu_gpu_memory_total_bytes" not in samples
    assert value(samples, "fracgpu_gpu_memory_allocated_bytes", device="gpu-11111111") == 8 * GIB
    # Not even in the inventory any more, but a claim holds it.
    assert value(samples, "fracgpu_gpu_memory_allocated_bytes", device="gpu-22222222") == 8 * GIB


def test_an_allocation_shows_its_amounts_and_each_condition_in_one_status(plugin: Plugin) -> None:
    bad = Finding(Truth.FALSE, "LibraryReplaced", "/usr/lib/libcuda.so.1 is not ours")
    unknown = Finding(Truth.UNKNOWN, "NoProcess", "no process yet")
    plugin.is_(allocations=[observed(record("a"), enforced=bad, within_limit=unknown)])
    samples = plugin.scrape()
    labels = {
        "namespace": "ns",
        "claim": "c",
        "request": "gpu",
        "device": "gpu-11111111",
        "gpu_uuid": gpu_uuid(0),
        "allocation_id": "a-gpu-gpu-11111111-0",
    }
    for name, expected in {
        "memory_limit_bytes": 8 * GIB,
        "memory_used_bytes": GIB,
        "memory_peak_bytes": 2 * GIB,
        "driver_memory_used_bytes": 5 * GIB,
        "host_pinned_bytes": 7 * GIB,
        "cores_percent": 30,
        "refusals_total": 3,
        "processes": 2,
        "observed_timestamp_seconds": SEEN_AT.timestamp(),
    }.items():
        assert samples[f"fracgpu_allocation_{name}"] == {frozenset(labels.items()): expected}
    statuses = {
        (dict(key)["condition"], dict(key)["status"]): number
        for key, number in samples["fracgpu_allocation_condition"].items()
    }
    assert {key for key, number in statuses.items() if number == 1} == {
        ("Prepared", "True"),
        ("Enforced", "False"),
        ("WithinLimit", "Unknown"),
        ("Compatible", "True"),
    }
    assert len(statuses) == 12


def test_what_is_not_known_or_not_limited_is_absent_and_not_zero(plugin: Plugin) -> None:
    plugin.is_(allocations=[observed(record("a", limited=False), used_bytes=None, peak_bytes=None, refusals=None)])
    samples = plugin.scrape()
    for name in ("memory_limit_bytes", "memory_used_bytes", "memory_peak_bytes", "refusals_total"):
        assert f"fracgpu_allocation_{name}" not in samples
    assert value(samples, "fracgpu_allocation_processes") == 2


def test_before_the_first_look_there_are_claims_and_no_allocations(plugin: Plugin) -> None:
    plugin.entries = lambda: [entry("a", record("a"))]
    samples = plugin.scrape()
    assert value(samples, "fracgpu_claims", state="prepared") == 1
    assert [name for name in samples if name.startswith("fracgpu_allocation")] == []


def test_the_series_of_a_claim_that_is_gone_are_gone(plugin: Plugin) -> None:
    plugin.is_(allocations=[observed(record("a"))])
    assert "fracgpu_allocation_condition" in plugin.scrape()
    plugin.is_()
    assert [name for name in plugin.scrape() if name.startswith("fracgpu_allocation")] == []


def test_a_claim_that_overlaps_with_its_predecessor_has_series_of_its_own(plugin: Plugin) -> None:
    old, new = record("old"), record("new")
    plugin.is_(allocations=[observed(old, refusals=9), observed(new, refusals=1), observed(record("new", 1))])
    samples = plugin.scrape()
    assert value(samples, "fracgpu_allocation_refusals_total", allocation_id=old.allocation_id) == 9
    assert value(samples, "fracgpu_allocation_refusals_total", allocation_id=new.allocation_id) == 1
    assert len(samples["fracgpu_allocation_processes"]) == 3


AMOUNTS = st.integers(0, 2**45)
DNS_LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
FINDINGS = st.builds(Finding, st.sampled_from(Truth), st.just("Reason"), st.text(max_size=5))


@given(data=st.data())
def test_any_node_gives_series_that_prometheus_takes_and_sums_that_agree(data: st.DataObject) -> None:
    plugin = Plugin()
    uids = data.draw(st.lists(DNS_LABELS, unique=True, max_size=4))
    entries = [
        entry(
            uid,
            *(
                record(uid, number, gpu=data.draw(st.integers(0, 2)), memory_bytes=data.draw(AMOUNTS))
                for number in range(data.draw(st.integers(0, 3)))
            ),
            state=data.draw(st.sampled_from(EntryState)),
        )
        for uid in uids
    ]
    records = [record for entry in entries for record in entry.allocations]
    plugin.entries = lambda: entries
    plugin.is_(
        gpus=[gpu(number, memory=GpuMemory(data.draw(AMOUNTS), 0, 0)) for number in range(2)],
        allocations=[
            observed(
                of,
                namespace=data.draw(DNS_LABELS),
                claim=data.draw(DNS_LABELS),
                enforced=data.draw(FINDINGS),
                used_bytes=data.draw(st.none() | AMOUNTS),
            )
            for of in records
        ],
    )
    samples = plugin.scrape()
    assert sum(samples["fracgpu_claims"].values()) == len(entries)
    allocated = samples["fracgpu_gpu_memory_allocated_bytes"].values()
    assert sum(allocated) == sum(of.memory_bytes for of in records)
    conditions = samples.get("fracgpu_allocation_condition", {})
    assert sum(conditions.values()) == 4 * len(records)
