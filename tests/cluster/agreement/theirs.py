"""kube-scheduler's answers: the objects of many cases put to a control plane, and what becomes of their pods.

All pods are created when everything else is known to the scheduler, so its first answer is its answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from fracgpu.driver.kube.transport import MERGE_PATCH, KubernetesTransport
from tests.cluster.agreement.cases import NAMESPACE, Case
from tests.cluster.agreement.pods import IMAGE
from tests.cluster.agreement.question import Question
from tests.cluster.hollow import NODES, SLICES, HollowNode, card, is_settled

Json = dict[str, Any]
CLAIMS: Final = f"/apis/resource.k8s.io/v1/namespaces/{NAMESPACE}/resourceclaims"
PODS: Final = f"/api/v1/namespaces/{NAMESPACE}/pods"
_CLASSES: Final = "/apis/resource.k8s.io/v1/deviceclasses"
_ADMIN_LABEL: Final = "resource.kubernetes.io/admin-access"
_THREADS: Final = 4
_DEADLINE_S: Final = 180.0
_LOOK_S: Final = 0.3
_CANARY: Final = "canary"


class Theirs:
    """One control plane that answers cases; use it as administrator, alone."""

    def __init__(self, kubeconfig: Path) -> None:
        """Use the kubeconfig; make the namespace."""
        self._api = KubernetesTransport(kubeconfig, user_agent="fracgpu-agreement")
        metadata = {"name": NAMESPACE, "labels": {_ADMIN_LABEL: "true"}}
        self._api.json("POST", "/api/v1/namespaces", body={"metadata": metadata})
        account = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
        wait(lambda: self._api.json("GET", account)["items"], what="the account of pods")
        self._rounds = 0

    def put(self, cases: Sequence[Case]) -> list[Question]:
        """Create everything but the pods; return the questions as stored, when the scheduler knows them."""
        nodes = [(case, node) for case in cases for node in case.nodes]
        self._each(lambda one: self._post(SLICES, one[0].slice(one[1], self._node(one[1]))), nodes)
        self._each(self._allocated, (held for case in cases for held in case.holders))
        self._each(lambda pod: self._post(PODS, pod), (pod for case in cases for pod in case.fillers))
        self._each(lambda claim: self._post(CLAIMS, claim), (claim for case in cases for claim in case.claims))
        self._await_settled()
        self._await_canary()
        return self._questions(cases)

    def decide(self, cases: Sequence[Case], expected: Sequence[bool]) -> list[Json]:
        """Create the pods; return them when the scheduler has decided.

        A pod that is `expected` to run and does not is given time: what the scheduler learns late makes it look again.
        """
        self._each(lambda case: self._post(PODS, case.pod), cases)
        names = [case.pod["metadata"]["name"] for case in cases]
        wait(lambda: all(is_decided(pod) for pod in self._pods(names)), what="the scheduler's answers")

        def as_expected() -> bool:
            pods = self._pods(names)
            return all(is_bound(pod) or not hope for pod, hope in zip(pods, expected, strict=True))

        wait(as_expected, what="", deadline_s=20.0, or_fail=False)
        return self._pods(names)

    def claims(self) -> dict[str, Json]:
        """Return all claims by name."""
        return {item["metadata"]["name"]: item for item in self._api.json("GET", CLAIMS)["items"]}

    def clear(self) -> None:
        """Remove everything of this round."""
        for path in (PODS, CLAIMS, SLICES, NODES):
            # Nobody finishes pods on nodes without a kubelet.
            options = {"gracePeriodSeconds": 0} if path == PODS else {}
            self._api.json("DELETE", path, body=options)
        for path in (PODS, CLAIMS, SLICES, NODES):
            wait(partial(self._is_empty, path), what=f"end of {path}")

    def _is_empty(self, path: str) -> bool:
        return not self._api.json("GET", path)["items"]

    def _questions(self, cases: Sequence[Case]) -> list[Question]:
        nodes, slices = self._listed(NODES), self._api.json("GET", SLICES)["items"]
        pods, claims, classes = self._listed(PODS), self._listed(CLAIMS), self._listed(_CLASSES)

        def question(case: Case) -> Question:
            names = [node.name for node in case.nodes]
            return Question(
                nodes=[nodes[name] for name in names],
                slices=[one for one in slices if one["spec"]["nodeName"] in names],
                holders=[claims[one["metadata"]["name"]] for one in case.holders],
                fillers=[pods[one["metadata"]["name"]] for one in case.fillers],
                claims=[claims[one["metadata"]["name"]] for one in case.claims],
                pod=case.pod,
                classes=classes,
            )

        return [question(case) for case in cases]

    def _listed(self, path: str) -> dict[str, Json]:
        return {item["metadata"]["name"]: item for item in self._api.json("GET", path)["items"]}

    def _node(self, hollow: HollowNode) -> str:
        uid = str(self._post(NODES, hollow.node())["metadata"]["uid"])
        self._api.json("PATCH", f"{NODES}/{hollow.name}", body=hollow.settled(), content_type=MERGE_PATCH)
        return uid

    def _post(self, path: str, body: Json) -> Json:
        return self._api.json("POST", path, body=body)

    def _allocated(self, claim: Json) -> None:
        stored = self._post(CLAIMS, {key: value for key, value in claim.items() if key != "status"})
        path = f"{CLAIMS}/{claim['metadata']['name']}/status"
        self._api.json("PUT", path, body={**stored, "status": claim["status"]})

    def _await_settled(self) -> None:
        wait(lambda: all(map(is_settled, self._listed(NODES).values())), what="nodes without taint")

    def _await_canary(self) -> None:
        """Wait until a pod of ours is bound: the scheduler has seen all objects that are older than its own."""
        self._rounds += 1
        name = f"{_CANARY}-{self._rounds}"
        node = HollowNode(
            name=name, gpus=[card(0xFFFF0000 + self._rounds)], allocator="scheduler", labels={"case": name}
        )
        self._post(SLICES, node.slice(self._node(node)))
        exactly = {"deviceClassName": "gpu.fracgpu.dev", "capacity": {"requests": {"memory": "1Gi"}}}
        spec = {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}
        self._post(CLAIMS, {"metadata": {"name": name}, "spec": spec})
        container = {"name": "main", "image": IMAGE, "resources": {"claims": [{"name": "gpu"}]}}
        pod = {
            "nodeSelector": {"case": name},
            "resourceClaims": [{"name": "gpu", "resourceClaimName": name}],
            "containers": [container],
        }
        self._post(PODS, {"metadata": {"name": name}, "spec": pod})
        wait(lambda: is_bound(self._pods([name])[0]), what="the canary's node")

    def _pods(self, names: Sequence[str]) -> list[Json]:
        found = self._listed(PODS)
        return [found[name] for name in names]

    def _each(self, call: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(call, items))


def is_bound(pod: Json) -> bool:
    """Tell whether the scheduler has found a node."""
    return bool(pod["spec"].get("nodeName"))


def is_decided(pod: Json) -> bool:
    """Tell whether the scheduler has said anything about a pod."""
    return is_bound(pod) or bool(refusal(pod))


def refusal(pod: Json) -> str:
    """Return why the scheduler did not find a node, empty if it has not said so."""
    for condition in pod["status"].get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message", condition.get("reason")))
    return ""


def wait(until: Callable[[], object], *, what: str, deadline_s: float = _DEADLINE_S, or_fail: bool = True) -> None:
    """Look until `until` is true; at the deadline fail, or return if that is no failure."""
    end = time.monotonic() + deadline_s
    while not until():
        if time.monotonic() > end:
            assert not or_fail, f"{what}: not within {deadline_s:g} s"
            return
        time.sleep(_LOOK_S)
