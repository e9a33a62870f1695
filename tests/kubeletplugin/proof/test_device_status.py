"""The entries of status.devices, as JSON and in the API server's protobuf."""

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.driver.kube.transport import encode
from fracgpu.driver.names import DRIVER_NAME, ClaimUid
from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.proof.device_status import DeviceReport, data_differs, make_reports, updated_devices
from fracgpu.kubeletplugin.proof.device_status_message import update_message
from fracgpu.kubeletplugin.proof.observation import AllocationObservation, Finding, Truth
from fracgpu.proto.resource.v1.generated_pb2 import ResourceClaim

GIB = 1 << 30
NOW = datetime(2026, 3, 1, 12, 0, 0, 999, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
GOOD = Finding(Truth.TRUE, "InterceptorAttached", "1 process has the interceptor with the memory limit 8192Mi")
BAD = Finding(Truth.FALSE, "LibraryReplaced", "at /usr/lib64/libcuda.so.1 lies another file")
OPEN = Finding(Truth.UNKNOWN, "NoProcess", "no process")
RECORD = AllocationRecord(
    allocation_id="u-gpu-gpu-11111111-0",
    index=0,
    request="gpu",
    pool="n1",
    device="gpu-11111111",
    gpu_uuid="GPU-11111111-2222-3333-4444-555555555555",
    share_id=None,
    memory_bytes=8 * GIB,
    cores=30,
    slots=1,
    limited=True,
    admin=False,
)
SHARE = "0b9d5a5e-3f6e-4c0c-9a0e-5a8f4f1d2c3b"


def observed(enforced: Finding = GOOD, record: AllocationRecord = RECORD, **changes: Any) -> AllocationObservation:
    fields: dict[str, Any] = {
        "claim": ClaimRef("ns", "c1", ClaimUid("u")),
        "record": record,
        "library_digest": "d" * 64,
        "prepared": Finding(Truth.TRUE, "Prepared", "on the node"),
        "enforced": enforced,
        "within_limit": Finding(Truth.TRUE, "WithinLimit", "1024Mi of 8192Mi"),
        "compatible": Finding(Truth.TRUE, "Compatible", "ABI version 1"),
        "used_bytes": GIB,
        "peak_bytes": 2 * GIB,
        "refusals": 3,
        "processes": 1,
        "observed_at": NOW,
        "memory_limit_bytes": record.memory_bytes if record.limited else None,
    }
    return AllocationObservation(**fields | changes)


def report(*args: Any, **changes: Any) -> tuple[DeviceReport, ...]:
    return make_reports([observed(*args, **changes)])


def result(**changes: Any) -> dict[str, Any]:
    return {"request": "gpu", "driver": DRIVER_NAME, "pool": "n1", "device": "gpu-11111111", **changes}


def claim(*devices: dict[str, Any], results: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {
        "metadata": {"name": "c1", "namespace": "ns", "uid": "u", "resourceVersion": "7"},
        "status": {"allocation": {"devices": {"results": [*(results or (result(),))]}}, "devices": list(devices)},
    }


def test_a_first_entry_says_everything() -> None:
    (entry,) = updated_devices(claim(), report(), NOW) or []
    assert {key: entry[key] for key in ("driver", "pool", "device")} == {
        "driver": "gpu.fracgpu.dev",
        "pool": "n1",
        "device": "gpu-11111111",
    }
    assert "shareID" not in entry
    assert [(one["type"], one["status"], one["reason"]) for one in entry["conditions"]] == [
        ("Prepared", "True", "Prepared"),
        ("Enforced", "True", "InterceptorAttached"),
        ("WithinLimit", "True", "WithinLimit"),
        ("Compatible", "True", "Compatible"),
    ]
    assert {one["lastTransitionTime"] for one in entry["conditions"]} == {"2026-03-01T12:00:00Z"}
    assert entry["data"] == {
        "backend": "interceptor",
        "coresPercent": 30,
        "gpuUUID": RECORD.gpu_uuid,
        "libraryDigest": "d" * 64,
        "memoryLimitBytes": 8 * GIB,
        "memoryPeakBytes": 2 * GIB,
        "memoryUsedBytes": GIB,
        "observedAt": "2026-03-01T12:00:00Z",
        "processes": 1,
        "refusals": 3,
    }


def test_what_is_not_known_is_left_out() -> None:
    unlimited = replace(RECORD, limited=False)
    (entry,) = updated_devices(
        claim(), report(record=unlimited, used_bytes=None, peak_bytes=None, refusals=None), NOW
    ) or [{}]
    assert not {"memoryLimitBytes", "memoryUsedBytes", "memoryPeakBytes", "refusals"} & set(entry["data"])


def test_a_transition_is_dated_only_where_the_status_changes() -> None:
    first = updated_devices(claim(), report(), NOW) or []
    (entry,) = updated_devices(claim(*first), report(BAD), LATER) or []
    dates = {one["type"]: one["lastTransitionTime"] for one in entry["conditions"]}
    assert dates.pop("Enforced") == "2026-03-01T13:00:00Z"
    assert set(dates.values()) == {"2026-03-01T12:00:00Z"}
    # Another reason with the same status is written, but is no transition.
    (entry,) = updated_devices(claim(entry), report(replace(BAD, reason="LibraryNotLoaded")), LATER) or []
    (enforced,) = [one for one in entry["conditions"] if one["type"] == "Enforced"]
    assert (enforced["reason"], enforced["lastTransitionTime"]) == ("LibraryNotLoaded", "2026-03-01T13:00:00Z")


@pytest.mark.parametrize(
    ("changes", "written"),
    [
        ({}, False),
        ({"observed_at": LATER}, False),
        ({"enforced": replace(GOOD, message="2 processes have the interceptor")}, False),
        ({"used_bytes": GIB + 8 * GIB // 20}, False),
        ({"used_bytes": GIB + 8 * GIB // 20 + 1}, True),
        ({"peak_bytes": 3 * GIB}, True),
        ({"refusals": 4}, True),
        ({"processes": 2}, True),
        ({"used_bytes": None}, True),
        ({"library_digest": "e" * 64}, True),
        ({"enforced": BAD}, True),
        ({"prepared": Finding(Truth.FALSE, "Releasing", "")}, True),
    ],
)
def test_only_what_means_something_is_written(changes: dict[str, Any], written: bool) -> None:
    first = updated_devices(claim(), report(), NOW) or []
    again = make_reports([observed(**changes)])
    assert (updated_devices(claim(*first), again, LATER) is not None) == written


def test_without_a_limit_amounts_are_measured_by_themselves() -> None:
    data = dict(report(record=replace(RECORD, limited=False))[0].data)
    assert not data_differs(data, data | {"memoryUsedBytes": GIB + GIB // 21})
    assert data_differs(data, data | {"memoryUsedBytes": GIB + GIB // 18})


OTHERS: list[dict[str, Any]] = [
    {"driver": "net.example.com", "pool": "n1", "device": "eth0", "data": {"b": 1, "a": [1.5]}, "networkData": {}},
    {"driver": DRIVER_NAME, "pool": "n2", "device": "gpu-11111111", "conditions": [{"type": "X"}]},
    {"driver": DRIVER_NAME, "pool": "n1", "device": "gpu-22222222", "data": {"backend": "x"}},
]


def test_entries_of_others_stay_as_they_are() -> None:
    before = copy.deepcopy(OTHERS)
    devices = updated_devices(claim(*OTHERS), report(), NOW)
    assert devices is not None
    assert devices[:3] == before
    assert [list(entry) for entry in devices[:3]] == [list(entry) for entry in before]
    assert len(devices) == 4


def test_foreign_fields_and_conditions_of_our_own_entry_stay() -> None:
    own = result(fieldOfTheFuture={"a": 1}, conditions=[{"type": "BoundByController", "status": "True"}])
    (entry,) = updated_devices(claim(own), report(), NOW) or []
    assert entry["fieldOfTheFuture"] == {"a": 1}
    assert entry["conditions"][4] == {"type": "BoundByController", "status": "True"}


def test_there_are_never_more_than_eight_conditions() -> None:
    own = result(conditions=[{"type": f"T{n}", "status": "True"} for n in range(8)])
    (entry,) = updated_devices(claim(own), report(), NOW) or []
    assert len(entry["conditions"]) == 8
    assert [one["type"] for one in entry["conditions"]][:5] == [
        "Prepared",
        "Enforced",
        "WithinLimit",
        "Compatible",
        "T0",
    ]


@pytest.mark.parametrize(
    "results",
    [
        (result(device="gpu-99999999"),),
        (result(driver="other.example.com"),),
        (result(shareID=SHARE),),
        (result(pool="n2"),),
    ],
)
def test_what_is_not_allocated_is_not_reported(results: tuple[dict[str, Any], ...]) -> None:
    assert updated_devices(claim(results=results), report(), NOW) is None


def test_a_claim_without_status_gets_none() -> None:
    assert updated_devices({"metadata": {}}, report(), NOW) is None


def test_shares_of_one_device_are_entries_of_their_own() -> None:
    other = SHARE[:-1] + "c"
    reports = make_reports(
        [observed(record=replace(RECORD, share_id=SHARE)), observed(BAD, record=replace(RECORD, share_id=other))]
    )
    both = claim(results=(result(shareID=SHARE), result(shareID=other)))
    devices = updated_devices(both, reports, NOW) or []
    assert [(one["shareID"], one["conditions"][1]["status"]) for one in devices] == [(SHARE, "True"), (other, "False")]


def test_results_that_the_api_can_not_tell_apart_are_one_entry_with_the_worst_of_both() -> None:
    (one,) = make_reports([observed(GOOD), observed(OPEN, refusals=None), observed(BAD)])
    assert one.conditions["Enforced"] == BAD
    assert one.data["memoryLimitBytes"] == 24 * GIB
    assert one.data["memoryUsedBytes"] == 3 * GIB
    assert "refusals" not in one.data


def test_what_holds_now_is_shown_and_a_suspension_only_while_it_lasts() -> None:
    (lowered,) = make_reports([observed(GOOD, memory_limit_bytes=GIB, suspended=True)])
    assert (lowered.data["memoryLimitBytes"], lowered.data["suspended"]) == (GIB, True)
    (resumed,) = make_reports([observed(GOOD, memory_limit_bytes=GIB)])
    assert "suspended" not in resumed.data
    (two,) = make_reports([observed(GOOD), observed(GOOD, suspended=True)])
    assert two.data["suspended"] is True


def test_bytes_that_are_no_text_do_not_break_a_write() -> None:
    path = b"/lib/\xff".decode(errors="surrogateescape")
    devices = updated_devices(claim(), report(replace(BAD, message=f"at {path} " + "x" * 4000)), NOW)
    written = json.loads(encode({"d": devices}))
    assert written["d"][0]["conditions"][1]["message"].startswith("at /lib/? ")
    assert len(written["d"][0]["conditions"][1]["message"]) == 1024


def message(*devices: dict[str, Any]) -> ResourceClaim:
    one = ResourceClaim()
    one.metadata.name, one.metadata.namespace, one.metadata.uid = "c1", "ns", "u"
    one.spec.devices.config.add().deviceConfiguration.opaque.parameters.raw = b'{ "b": 1.0, "a": 2 }'
    allocated = one.status.allocation.devices.results.add()
    allocated.driver, allocated.pool, allocated.device, allocated.request = DRIVER_NAME, "n1", "gpu-11111111", "gpu"
    for device in devices:
        entry = one.status.devices.add(driver=device["driver"], pool=device["pool"], device=device["device"])
        if "data" in device:
            entry.data.raw = json.dumps(device["data"]).encode()
    return one


UNKNOWN = b"\xc2\x0c\x05hello"


def test_the_message_says_the_same_and_touches_nothing_else() -> None:
    one = message(*OTHERS)
    one.MergeFromString(UNKNOWN)
    untouched = [entry.SerializeToString() for entry in one.status.devices]
    spec = one.spec.SerializeToString()
    assert update_message(one, report(), NOW)
    assert [entry.SerializeToString() for entry in one.status.devices][:3] == untouched
    assert one.spec.SerializeToString() == spec
    assert UNKNOWN in one.SerializeToString()
    entry = one.status.devices[3]
    assert (entry.driver, entry.pool, entry.device, entry.HasField("shareID")) == (
        DRIVER_NAME,
        "n1",
        "gpu-11111111",
        False,
    )
    (as_json,) = updated_devices(claim(), report(), NOW) or []
    assert entry.data.raw == encode(as_json["data"])
    assert [(c.type, c.status, c.reason, c.message, c.lastTransitionTime.seconds) for c in entry.conditions] == [
        (c["type"], c["status"], c["reason"], c["message"], int(NOW.timestamp())) for c in as_json["conditions"]
    ]


def test_in_the_message_too_only_news_are_written() -> None:
    one = message()
    assert update_message(one, report(), NOW)
    stored = one.SerializeToString()
    assert not update_message(one, report(observed_at=LATER), LATER)
    assert one.SerializeToString() == stored
    one.status.devices[0].MergeFromString(UNKNOWN)
    one.status.devices[0].conditions[1].MergeFromString(UNKNOWN)
    assert update_message(one, report(BAD), LATER)
    (entry,) = one.status.devices
    times = [c.lastTransitionTime.seconds for c in entry.conditions]
    assert times == [int(moment.timestamp()) for moment in (NOW, LATER, NOW, NOW)]
    assert entry.SerializeToString().count(b"hello") == 2


def test_a_message_with_other_results_is_left_alone() -> None:
    one = message()
    one.status.allocation.devices.results[0].shareID = SHARE
    assert not update_message(one, report(), NOW)


@given(st.binary(max_size=50))
def test_data_that_is_no_json_is_written_anew(data: bytes) -> None:
    one = message()
    one.status.devices.add(driver=DRIVER_NAME, pool="n1", device="gpu-11111111").data.raw = data
    assert update_message(one, report(), NOW)
    assert json.loads(one.status.devices[0].data.raw)["backend"] == "interceptor"
