"""What a Pod that uses claims may say, and the workloads that make such pods."""

from __future__ import annotations

from typing import Any, Final

from fracgpu.sim.node.api import Json
from tests.scenarios.api_bodies import invalid, patch
from tests.scenarios.api_case import Case, Refused, Stored, Then

_SAME: Final = "gpu"


def container(name: str = "main", *claims: Json, **members: Any) -> Json:
    """Return a container that uses claims."""
    used = {"resources": {"claims": list(claims)}} if claims else {}
    return {"name": name, "image": "example.com/image:1", "command": ["true"], **used, **members}


def pod(*containers: Json, claims: Any = (), **spec: Any) -> Json:
    """Return a pod that no scheduler takes."""
    body = {"schedulerName": "nobody", "containers": list(containers), **spec}
    return {"apiVersion": "v1", "kind": "Pod", "spec": body | ({"resourceClaims": list(claims)} if claims else {})}


def named(name: str = _SAME) -> Json:
    """Return a pod's reference to a claim."""
    return {"name": name, "resourceClaimName": "some-claim"}


def _workload(kind: str, api_version: str, labels: Json, **spec: Any) -> Json:
    template = {"metadata": {"labels": labels}, "spec": pod(container())["spec"]}
    return {
        "apiVersion": api_version,
        "kind": kind,
        "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template, "replicas": 0, **spec},
    }


def _job(**pod_spec: Any) -> Json:
    template = {"spec": pod(container(), **{"restartPolicy": "Never", **pod_spec})["spec"]}
    return {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": template, "suspend": True}}


PODS: Final = (
    Case(
        name="pod defaults",
        body=pod(container("main", {"name": _SAME, "request": "one"}), claims=[named()]),
        answer=Stored(
            {
                "spec.restartPolicy": "Always",
                "spec.terminationGracePeriodSeconds": 30,
                "spec.dnsPolicy": "ClusterFirst",
                "spec.containers[0].imagePullPolicy": "IfNotPresent",
                "spec.containers[0].resources.claims": [{"name": _SAME, "request": "one"}],
                "status.phase": "Pending",
                "status.qosClass": "BestEffort",
                "metadata.generation": 1,
            },
            absent=("spec.nodeName", "status.containerStatuses"),
        ),
    ),
    Case(
        name="pod with a sidecar",
        body=pod(container(), initContainers=[container("side", restartPolicy="Always")]),
        answer=Stored({"spec.initContainers[0].restartPolicy": "Always"}),
    ),
    Case(
        name="pod without containers",
        body=pod(),
        answer=invalid("spec.containers: Required value"),
    ),
    Case(
        name="pod restart policy",
        body=pod(container(), restartPolicy="Sometimes"),
        answer=invalid('spec.restartPolicy: Unsupported value: "Sometimes"', '"Always", "OnFailure", "Never"'),
    ),
    Case(
        name="pod restart policy of an init container",
        body=pod(container(), initContainers=[container("first", restartPolicy="Sometimes")]),
        answer=invalid('spec.initContainers[0].restartPolicy: Unsupported value: "Sometimes"'),
    ),
    Case(
        name="pod container without image",
        body=pod({"name": "main"}),
        answer=invalid("spec.containers[0].image: Required value"),
    ),
    Case(
        name="pod container name",
        body=pod(container("Main")),
        answer=invalid('spec.containers[0].name: Invalid value: "Main"'),
    ),
    Case(
        name="pod container without name",
        body=pod(container("")),
        answer=invalid("spec.containers[0].name: Required value"),
    ),
    Case(
        name="pod claim without name",
        body=pod(container(), claims=[{"name": "", "resourceClaimName": "a"}]),
        answer=invalid("spec.resourceClaims[0].name: Required value"),
    ),
    Case(
        name="pod claim of a bad name",
        body=pod(container(), claims=[{"name": "gpu", "resourceClaimName": "a_b"}]),
        answer=invalid("spec.resourceClaims[0].resourceClaimName: Invalid value"),
    ),
    Case(
        name="pod restart policy of a container",
        body=pod(container(restartPolicy="OnFailure")),
        answer=Stored({"spec.containers[0].restartPolicy": "OnFailure"}),
    ),
    Case(
        name="pod two containers of one name",
        body=pod(container("a"), container("a")),
        answer=invalid('spec.containers[1].name: Duplicate value: "a"'),
    ),
    Case(
        name="pod init container of the same name",
        body=pod(container("a"), initContainers=[container("a")]),
        answer=invalid('spec.initContainers[0].name: Duplicate value: "a"'),
    ),
    Case(
        name="pod two claims of one name",
        body=pod(container(), claims=[named(), named()]),
        answer=invalid("spec.resourceClaims[1]", "Duplicate value"),
    ),
    Case(
        name="pod claim from nowhere",
        body=pod(container(), claims=[{"name": "gpu"}]),
        answer=invalid(
            "spec.resourceClaims[0]: Invalid value",
            "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
        ),
    ),
    Case(
        name="pod claim from two places",
        body=pod(container(), claims=[named() | {"resourceClaimTemplateName": "some-template"}]),
        answer=invalid(
            "spec.resourceClaims[0]: Invalid value",
            "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
        ),
    ),
    Case(
        name="pod container of an unknown claim",
        body=pod(container("main", {"name": "other"}), claims=[named()]),
        answer=invalid(
            'spec.containers[0].resources.claims[0]: Not found: "other": must be one of the names in '
            "pod.spec.resourceClaims: gpu"
        ),
    ),
    Case(
        name="pod container of a claim twice",
        body=pod(container("main", {"name": _SAME}, {"name": _SAME}), claims=[named()]),
        answer=invalid("spec.containers[0].resources.claims[1]", "Duplicate value"),
    ),
    Case(
        name="pod container of a claim and of a request of it",
        body=pod(container("main", {"name": _SAME}, {"name": _SAME, "request": "one"}), claims=[named()]),
        answer=invalid("spec.containers[0].resources.claims[1]", "Duplicate value"),
    ),
    Case(
        name="pod container of two requests of a claim",
        body=pod(
            container("main", {"name": _SAME, "request": "one"}, {"name": _SAME, "request": "two"}), claims=[named()]
        ),
        answer=Stored({"spec.containers[0].resources.claims[1].request": "two"}),
    ),
    Case(
        name="pod image may change",
        body=pod(container()),
        then=[
            patch(
                [{"op": "replace", "path": "/spec/containers/0/image", "value": "example.com/image:2"}],
                "application/json-patch+json",
            )
        ],
        answer=Stored({"spec.containers[0].image": "example.com/image:2", "metadata.generation": 2}),
    ),
    Case(
        name="pod command may not change",
        body=pod(container()),
        then=[
            patch(
                [{"op": "replace", "path": "/spec/containers/0/command", "value": ["false"]}],
                "application/json-patch+json",
            )
        ],
        answer=invalid("spec: Forbidden: pod updates may not change fields other than"),
    ),
    Case(
        name="pod claims may not change",
        body=pod(container(), claims=[named()]),
        then=[
            patch(
                [{"op": "replace", "path": "/spec/resourceClaims/0/resourceClaimName", "value": "b"}],
                "application/json-patch+json",
            )
        ],
        answer=invalid("spec: Forbidden: pod updates may not change fields other than"),
    ),
    Case(
        name="pod binding to no node",
        body=pod(container()),
        then=[
            Then(
                method="POST",
                subresource="binding",
                edit=lambda obj: {
                    "apiVersion": "v1",
                    "kind": "Binding",
                    "metadata": {"name": obj["metadata"]["name"]},
                    "target": {"kind": "Node", "name": ""},
                },
            )
        ],
        answer=Refused(500, "", ("target.name: Required value",)),
    ),
)

WORKLOADS: Final = (
    Case(
        name="deployment selector",
        body=_workload("Deployment", "apps/v1", {"app": "b"}),
        answer=invalid("spec.template.metadata.labels: Invalid value", "`selector` does not match template `labels`"),
    ),
    Case(
        name="deployment defaults",
        body=_workload("Deployment", "apps/v1", {"app": "a"}),
        answer=Stored(
            {
                "spec.strategy.type": "RollingUpdate",
                "spec.strategy.rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"},
                "spec.template.spec.restartPolicy": "Always",
                "metadata.generation": 1,
            }
        ),
    ),
    Case(
        name="deployment that restarts never",
        body=_workload(
            "Deployment",
            "apps/v1",
            {"app": "a"},
            template={"metadata": {"labels": {"app": "a"}}, "spec": pod(container(), restartPolicy="Never")["spec"]},
        ),
        answer=invalid('spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"'),
    ),
    Case(
        name="deployment selector is immutable",
        body=_workload("Deployment", "apps/v1", {"app": "a", "tier": "b"}),
        then=[patch({"spec": {"selector": {"matchLabels": {"app": None, "tier": "b"}}}})],
        answer=invalid("spec.selector: Invalid value", "field is immutable"),
    ),
    Case(
        name="job defaults",
        body=_job(),
        answer=Stored(
            {
                "spec.completions": 1,
                "spec.parallelism": 1,
                "spec.backoffLimit": 6,
                "spec.completionMode": "NonIndexed",
                "spec.suspend": True,
                "spec.podReplacementPolicy": "TerminatingOrFailed",
            },
        ),
    ),
    Case(
        name="job that restarts always",
        body=_job(restartPolicy="Always"),
        answer=invalid('spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"'),
    ),
    Case(
        name="statefulset defaults",
        body=_workload("StatefulSet", "apps/v1", {"app": "a"}, serviceName="none"),
        answer=Stored(
            {
                "spec.podManagementPolicy": "OrderedReady",
                "spec.updateStrategy.type": "RollingUpdate",
                "spec.revisionHistoryLimit": 10,
                "metadata.generation": 1,
            }
        ),
    ),
    Case(
        name="statefulset selector",
        body=_workload("StatefulSet", "apps/v1", {"app": "b"}),
        answer=invalid("spec.template.metadata.labels: Invalid value", "`selector` does not match template `labels`"),
    ),
    Case(
        name="statefulset may not change",
        body=_workload("StatefulSet", "apps/v1", {"app": "a"}),
        then=[patch({"spec": {"serviceName": "other"}})],
        answer=invalid("spec: Forbidden: updates to statefulset spec for fields other than"),
    ),
)
