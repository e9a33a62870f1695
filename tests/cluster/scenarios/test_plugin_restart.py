"""The plugin goes and comes back under pods that use their GPUs, and in the middle of its work. Pods notice nothing."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.sim.node.api import Json
from tests.cluster.cluster import Cluster
from tests.cluster.eventually import await_retried, eventually
from tests.cluster.installation import NAMESPACE, SERVICE_ACCOUNT
from tests.cluster.manifests import claim, document, pod
from tests.cluster.node_state import CLEAN, kubelet_claims, node_state, plugin_claim_state
from tests.cluster.worker import Worker

_TOKEN_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 (a path)
_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


def test_a_plugin_pod_deleted_under_a_climbing_pod_changes_nothing_for_it(cluster: Cluster, namespace: str) -> None:
    worker = Worker.start(cluster, namespace, "one")
    container, inode = worker.container(), (worker.allocation() / "state").stat().st_ino
    (published,) = cluster.slices(DRIVER_NAME)
    (old,) = cluster.installation.plugin_pods()

    cluster.delete_pod(old["metadata"]["name"], NAMESPACE, grace_s=30)
    worker.more()
    cluster.installation.await_ready()

    worker.more()
    assert worker.container() == container
    assert (worker.allocation() / "state").stat().st_ino == inode
    # Back within the half minute that the kubelet gives it: the same slice, not a new one.
    (again,) = cluster.slices(DRIVER_NAME)
    assert again["metadata"]["uid"] == published["metadata"]["uid"]
    assert again["spec"]["devices"] == published["spec"]["devices"]
    cluster.delete_pod("one", namespace)
    assert node_state() == CLEAN


@pytest.mark.parametrize("state", ["", "preparing", "prepared"])
def test_a_plugin_killed_while_it_prepares_prepares_again(cluster: Cluster, namespace: str, state: str) -> None:
    """Kill it as soon as its checkpoint shows the claim in that state: nothing, in preparation, prepared."""
    process = cluster.installation.plugin_process()
    with cluster.installation.hung_plugin():
        cluster.apply(document(claim("one"), pod("one", ["fracgpu-climb", "driver", "64", "--hold"])), namespace)
        uid = cluster.claim("one", namespace)["metadata"]["uid"]
        eventually(lambda: uid in kubelet_claims(), what="claim with the kubelet")
        if state:
            os.kill(process, signal.SIGCONT)
            # Without a pause: the states are milliseconds apart.
            end = time.monotonic() + 60
            while plugin_claim_state(uid) not in {state, "prepared"}:
                assert time.monotonic() < end, "the plugin never began"
        os.kill(process, signal.SIGKILL)

    await_retried(cluster, "one", namespace)
    refused = json.loads(cluster.wait_log("one", '"refused"', namespace=namespace).splitlines()[-1])
    # All but the program's context.
    assert refused["allocated_bytes"] == (1024 - 64) << 20
    cluster.delete_pod("one", namespace)
    assert node_state() == CLEAN
    # A pod of its own begins without the waiting times of the one that crashed.
    cluster.installation.replace_pods()


def test_the_plugins_token_is_its_pods_and_ends_with_it(cluster: Cluster) -> None:
    (plugin,) = cluster.installation.plugin_pods()
    name = plugin["metadata"]["name"]
    token = cluster.output_of(name, ["cat", _TOKEN_FILE], namespace=NAMESPACE)

    status = _review(cluster, token)
    extra = status["user"]["extra"]
    assert status["user"]["username"] == f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"
    assert extra["authentication.kubernetes.io/pod-uid"] == [plugin["metadata"]["uid"]]
    assert extra["authentication.kubernetes.io/node-name"] == [cluster.node_name]

    cluster.delete_pod(name, NAMESPACE, grace_s=30)
    # The API server remembers a token that it has seen for some seconds.
    eventually(lambda: not _review(cluster, token).get("authenticated"), what="end of the token")
    cluster.installation.await_ready()


def _review(cluster: Cluster, token: str) -> Json:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    status: Json = cluster.api.create(_REVIEWS, body)["status"]
    return status
