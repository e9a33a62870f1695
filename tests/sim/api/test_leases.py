"""Leases: what leader election does with them. tests/cluster asks a real API server the same."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from kubernetes import client
from kubernetes.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

from fracgpu.sim.api.server import ApiServer
from tests.deploy.servers import Requests
from tests.sim.api.lease_calls import CALLS, Call, ask, check


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_a_lease_is_answered_as_by_a_real_server(server: ApiServer, call: Call) -> None:
    check(ask(Requests(server.url), call), call)


def lock(api: client.ApiClient, identity: str) -> LeaseLock:
    made = LeaseLock("lock", "default", identity)
    made.api_instance = client.CoordinationV1Api(api)
    return made


def record(identity: str, second: int = 1) -> LeaderElectionRecord:
    # As leaderelection.py writes it: local time, naive.
    return LeaderElectionRecord(identity, 17, "2026-01-01 10:00:00.250000", f"2026-01-01 10:00:0{second}.500000")


def test_the_lock_of_the_official_client_is_held_by_one(api: client.ApiClient) -> None:
    ann, bob = lock(api, "ann"), lock(api, "bob")
    assert ann.get("lock", "default")[0] is False
    assert ann.create("lock", "default", record("ann"))
    assert not bob.create("lock", "default", record("bob"))
    for one in (ann, bob):
        found, held = one.get("lock", "default")
        assert found
        assert (held.holder_identity, held.renew_time) == ("ann", "2026-01-01 10:00:01.500000")
    assert ann.update("lock", "default", record("ann", second=2))
    # Bob has not seen it.
    assert not bob.update("lock", "default", record("bob"))
    bob.get("lock", "default")
    assert bob.update("lock", "default", record("bob"))
    stored = ann.api_instance.read_namespaced_lease("lock", "default").spec
    assert (stored.holder_identity, stored.lease_duration_seconds) == ("bob", 17)
    assert stored.renew_time == datetime(2026, 1, 1, 10, 0, 1, 500000).astimezone(UTC)


def test_a_renewal_on_the_full_second_fails_as_on_a_real_server(api: client.ApiClient) -> None:
    """The client writes no fraction then, and the server reads none but six digits: leader election tries again."""
    ann = lock(api, "ann")
    held = record("ann")
    held.renew_time = "2026-01-01 10:00:01"
    assert not ann.create("lock", "default", held)
    assert ann.create("lock", "default", record("ann"))


def test_an_event_has_its_time_in_the_same_form(server: ApiServer) -> None:
    event = {"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "namespace": "default"}}
    events = "/api/v1/namespaces/default/events"
    answer = Requests(server.url).send("POST", events, event | {"eventTime": "2026-01-01T00:00:00Z"})
    assert (answer.code, '"Z" as ".000000"' in answer.verdict[2]) == (400, True)
    answer = Requests(server.url).send("POST", events, event | {"eventTime": "2026-01-01T01:00:00.100000+01:00"})
    assert (answer.code, answer.body["eventTime"]) == (201, "2026-01-01T00:00:00.100000Z")
