"""Random pods: where they want to run and what they need besides GPUs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

Json = dict[str, Any]
IMAGE: Final = "registry.example.com/none"
# A node that nobody beats for is tainted after a while; that has nothing to do with any case.
_ALWAYS: Final[Sequence[Json]] = (
    {"key": "node.kubernetes.io/unreachable", "operator": "Exists"},
    {"key": "node.kubernetes.io/not-ready", "operator": "Exists"},
)
_TOLERATIONS: Final[Sequence[Json]] = (
    {"key": "example.com/team", "operator": "Equal", "value": "vision", "effect": "NoSchedule"},
    {"key": "example.com/team", "operator": "Equal", "value": "speech"},
    {"key": "example.com/night", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3600},
    {"key": "example.com/night", "operator": "Exists", "effect": "NoSchedule"},
    {"operator": "Exists"},
)
_EXPRESSIONS: Final[Sequence[Json]] = (
    {"key": "zone", "operator": "In", "values": ["a"]},
    {"key": "zone", "operator": "NotIn", "values": ["a", "c"]},
    {"key": "gpu-node", "operator": "Exists"},
    {"key": "gpu-node", "operator": "DoesNotExist"},
    {"key": "rank", "operator": "Gt", "values": ["1"]},
    {"key": "rank", "operator": "Lt", "values": ["2"]},
    {"key": "tier", "operator": "NotIn", "values": ["gold"]},
)


def make_pod(choice: random.Random, name: str, selector: Mapping[str, str], claims: Sequence[str]) -> Json:
    """Return a pod that uses `claims` and may only run on nodes with the labels of `selector`."""
    spec: Json = {
        "restartPolicy": "Never",
        # Whoever evicts it once it is bound (a tainted device) waits for a kubelet, and there is none.
        "terminationGracePeriodSeconds": 600,
        "nodeSelector": dict(selector),
        "tolerations": [*_ALWAYS],
        "resourceClaims": [{"name": f"gpu{at}", "resourceClaimName": claim} for at, claim in enumerate(claims)],
        "containers": [_container(choice, "main", [f"gpu{at}" for at in range(len(claims))])],
    }
    if choice.random() < 0.25:
        spec["containers"].append(_container(choice, "second", []))
    if choice.random() < 0.2:
        spec["initContainers"] = [_init_container(choice, f"init{at}") for at in range(choice.choice((1, 2)))]
    if choice.random() < 0.1:
        spec["nodeSelector"]["zone"] = choice.choice("ab")
    if choice.random() < 0.2:
        spec["affinity"] = {"nodeAffinity": _affinity(choice, name)}
    if choice.random() < 0.25:
        spec["tolerations"] += choice.sample(_TOLERATIONS, choice.choice((1, 2)))
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def make_filler(choice: random.Random, name: str, node: str) -> Json:
    """Return a pod that takes a part of a node and is bound to it from the beginning."""
    requests = {"cpu": choice.choice(("500m", "1500m", "2")), "memory": choice.choice(("1Gi", "3Gi"))}
    container = {"name": "main", "image": IMAGE, "resources": {"requests": requests}}
    spec = {"nodeName": node, "tolerations": [{"operator": "Exists"}], "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def _container(choice: random.Random, name: str, claims: Sequence[str]) -> Json:
    resources: Json = {}
    if claims:
        resources["claims"] = [{"name": one} for one in claims]
    if choice.random() < 0.3:
        amounts = {
            "cpu": choice.choice(("100m", "500m", "1", "1900m", "2500m")),
            "memory": choice.choice(("64Mi", "1Gi", "2Gi", "5Gi")),
        }
        # A limit without a request is one.
        resources[choice.choice(("requests", "limits"))] = amounts
    return {"name": name, "image": IMAGE, "resources": resources}


def _init_container(choice: random.Random, name: str) -> Json:
    container = _container(choice, name, [])
    container["resources"]["requests"] = {"cpu": choice.choice(("500m", "1", "3"))}
    if choice.random() < 0.4:
        # A sidecar: it stays, so it adds to what the containers need.
        container["restartPolicy"] = "Always"
    if "limits" in container["resources"]:
        del container["resources"]["limits"]
    return container


def _affinity(choice: random.Random, name: str) -> Json:
    terms: list[Json] = []
    for _ in range(choice.choice((1, 2))):
        if choice.random() < 0.3:
            field = {"key": "metadata.name", "operator": "In", "values": [f"{name}-n{choice.randrange(2)}"]}
            terms.append({"matchFields": [field]})
        else:
            terms.append({"matchExpressions": choice.sample(_EXPRESSIONS, choice.choice((1, 1, 2)))})
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
