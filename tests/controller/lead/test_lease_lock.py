"""The Lease on the emulated API server: what is in it, and whose write counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fracgpu.controller.lead.election import Leadership, Timing
from fracgpu.controller.lead.lease_lock import LeaseRecordLock
from fracgpu.controller.lead.record import Record
from fracgpu.driver.kube.errors import Conflict, Unavailable
from fracgpu.driver.kube.transport import KubernetesTransport
from fracgpu.sim.api.server import ApiServer

PATH = "/apis/coordination.k8s.io/v1/namespaces/default/leases/fracgpu"
MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
# Without a fraction of a second: the API server wants six digits all the same.
RECORD = Record(holder="a", duration_seconds=15, acquired="2026-08-29 01:02:03", renewed="2026-08-29 01:02:04.5")


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


@pytest.fixture
def transport(server: ApiServer, tmp_path: Path) -> Iterator[KubernetesTransport]:
    one = KubernetesTransport(server.write_kubeconfig(tmp_path / "kubeconfig"), user_agent="test")
    yield one
    one.close()


def lock_of(transport: KubernetesTransport) -> LeaseRecordLock:
    return LeaseRecordLock(transport, namespace="default", name="fracgpu")


def test_a_record_comes_back_as_it_was_written(transport: KubernetesTransport) -> None:
    lock = lock_of(transport)
    assert lock.read() is None
    lock.create(RECORD)
    found = lock.read()
    assert found is not None
    assert (found.holder, found.duration_seconds, found.acquired) == ("a", 15, "2026-08-29 01:02:03")
    spec = transport.json("GET", PATH)["spec"]
    assert MICRO_TIME.fullmatch(spec["acquireTime"])
    assert MICRO_TIME.fullmatch(spec["renewTime"])
    lock.update(Record(holder="", duration_seconds=1, acquired=RECORD.acquired, renewed=RECORD.renewed))
    emptied = lock.read()
    assert emptied is not None
    assert emptied.holder == ""
    assert emptied.version != found.version


def test_only_the_newest_version_can_be_replaced(transport: KubernetesTransport) -> None:
    first, second = lock_of(transport), lock_of(transport)
    first.create(RECORD)
    second.read()
    first.update(RECORD)
    first.update(Record(holder="b", duration_seconds=15, acquired=RECORD.acquired, renewed=RECORD.renewed))
    with pytest.raises(Conflict):
        second.update(RECORD)
    with pytest.raises(Conflict):
        second.create(RECORD)


def test_what_others_wrote_into_the_lease_stays(transport: KubernetesTransport) -> None:
    first, second = lock_of(transport), lock_of(transport)
    first.create(RECORD)
    lease = transport.json("GET", PATH)
    lease["spec"]["leaseTransitions"] = 7
    lease["metadata"]["annotations"] = {"a": "b"}
    transport.json("PUT", PATH, body=lease)
    second.read()
    second.update(RECORD)
    after = transport.json("GET", PATH)
    assert (after["spec"]["leaseTransitions"], after["metadata"]["annotations"]) == (7, {"a": "b"})


def test_an_unreachable_server_is_said_to_be_one(server: ApiServer, transport: KubernetesTransport) -> None:
    lock = lock_of(transport)
    server.stop()
    with pytest.raises(Unavailable):
        lock.read()


def test_two_replicas_on_a_server(transport: KubernetesTransport) -> None:
    first = Leadership(lock_of(transport), identity="pod-a", timing=Timing())
    second = Leadership(lock_of(transport), identity="pod-b", timing=Timing())
    for one in (first, second, first, second):
        one.attempt()
    term = first.term()
    assert term is not None
    assert second.term() is None
    assert transport.json("GET", PATH)["spec"]["holderIdentity"] == term
    first.release()
    second.attempt()
    assert first.term() is None
    assert second.term() is not None
