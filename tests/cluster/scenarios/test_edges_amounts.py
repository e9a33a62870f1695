"""Sharp edges of amounts: what the API server rounds, spells in decimals or fills in is what the pod is held to."""

from __future__ import annotations

import pytest

from fracgpu.sim.lab.errors import CommandFailed
from fracgpu.sim.node.api import Json
from tests.cluster.cluster import Cluster
from tests.cluster.machine.gpus import CARD_MIB
from tests.cluster.manifests import MIB
from tests.cluster.scenarios.edge_objects import (
    SELECT_T4,
    T4_MIB,
    apply,
    claim,
    copied_class,
    pod,
    request,
    totals,
    view,
    wait_event,
)

PREFIXED = {"gpu.fracgpu.dev/memory": "1Gi"}


def results(cluster: Cluster, name: str, namespace: str) -> list[Json]:
    found: list[Json] = cluster.claim(name, namespace)["status"]["allocation"]["devices"]["results"]
    return found


@pytest.mark.parametrize(
    ("asked", "granted_mib"),
    [
        pytest.param("1025.5Mi", 1026, id="half-a-step"),
        pytest.param("8G", 7630, id="decimal"),
        pytest.param("8000M", 7630, id="eight-decimal-gigabytes-are-less-than-8Gi"),
    ],
)
def test_the_rounded_amount_is_enforced_and_shown(
    cluster: Cluster, namespace: str, asked: str, granted_mib: int
) -> None:
    apply(cluster, namespace, claim("odd", request(capacity={"memory": asked})), pod("user", "odd"))
    cluster.wait_pod("user", namespace=namespace)

    (result,) = results(cluster, "odd", namespace)
    assert result["consumedCapacity"]["memory"] == f"{granted_mib}Mi"
    assert totals(view(cluster, "user", namespace)) == [granted_mib * MIB]


def test_a_claim_that_states_no_amount_gets_one_whole_gpu_and_says_so(cluster: Cluster, namespace: str) -> None:
    apply(cluster, namespace, claim("silent", request(selector=SELECT_T4)), pod("user", "silent"))
    cluster.wait_pod("user", namespace=namespace)

    (result,) = results(cluster, "silent", namespace)
    assert result["consumedCapacity"] == {"cores": "0", "memory": f"{T4_MIB // 1024}Gi", "slots": "1"}
    assert totals(view(cluster, "user", namespace)) == [T4_MIB * MIB]


def test_all_takes_a_share_of_every_gpu_each_with_its_own_limit(cluster: Cluster, namespace: str) -> None:
    every = request(allocationMode="All", capacity={"memory": "4Gi"})
    apply(cluster, namespace, claim("every", every), pod("user", "every"))
    cluster.wait_pod("user", namespace=namespace)

    taken = results(cluster, "every", namespace)
    assert len({result["device"] for result in taken}) == len(taken) == 3
    assert totals(view(cluster, "user", namespace)) == [4 << 30] * 3


def test_all_without_an_amount_takes_all_of_every_gpu(cluster: Cluster, namespace: str) -> None:
    apply(cluster, namespace, claim("every", request(allocationMode="All")), pod("user", "every"))
    cluster.wait_pod("user", namespace=namespace)

    assert sorted(totals(view(cluster, "user", namespace))) == [T4_MIB * MIB, CARD_MIB * MIB, CARD_MIB * MIB]


def test_a_capacity_with_a_domain_is_refused_by_name(cluster: Cluster, namespace: str) -> None:
    # Were the key just left out, the default would be a whole GPU.
    with pytest.raises(CommandFailed, match=r"no such key: gpu\.fracgpu\.dev/memory; write memory"):
        apply(cluster, namespace, claim("wrong", request(capacity=PREFIXED)))


def test_a_capacity_with_a_domain_is_never_taken_for_ours(cluster: Cluster, namespace: str) -> None:
    # The policy knows the shipped classes. By a class of an administrator's own such a claim gets as far as this.
    with copied_class(cluster, "e2e-own"):
        wrong = request(device_class="e2e-own", capacity=PREFIXED)
        apply(cluster, namespace, claim("wrong", wrong), pod("user", "wrong"))

        wait_event(cluster, namespace, "user", "cannot allocate all claims")
        assert "allocation" not in cluster.claim("wrong", namespace).get("status", {})
