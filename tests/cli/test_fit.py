"""`fracgpu fit`: what would be placed where, what remains, how many more; and that nothing is written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fracgpu.cli.fit import Trial
from fracgpu.cli.main import main
from fracgpu.cli.snapshot import Snapshot
from fracgpu.sim import manifests
from fracgpu.sim.api import resources as r
from fracgpu.sim.api.server import ApiServer
from tests.cli.cluster import MIB, Cluster, claim, gpu, pod, template

Capture = pytest.CaptureFixture[str]
Json = dict[str, Any]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ApiServer() as server:
        made = Cluster(server, tmp_path)
        made.node("n1", gpu("gpu-a", 40960))
        made.node("n2", gpu("gpu-b", 20480, product="L4"), allocatable={"cpu": "1"})
        made.apply(claim("busy", memory="8000Mi", cores=25), pod("busy", "busy"))
        made.allocate("busy", "n1", "gpu-a", "8000Mi", 25, "busy")
        yield made


def deployment(name: str, claims: str, replicas: int, **spec: Any) -> Json:
    inner = pod(name, template_name=claims, **spec)["spec"]
    inner["containers"][0]["resources"]["requests"] = {"cpu": "1"}
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": inner},
        },
    }


def text(*objects: Json) -> str:
    return str(yaml.safe_dump_all(objects, sort_keys=False))


def test_pods_are_placed_one_after_the_other(cluster: Cluster, capsys: Capture) -> None:
    manifest = text(template("slice", memory="8000Mi", cores=20), deployment("web", "slice", 5))
    status, lines, said = cluster.run(capsys, "fit", manifest)
    assert (status, said) == (1, [])
    assert lines == [
        "Deployment default/web: 4 of 5 fit",
        "  POD    NODE  GPU    SHARE             REMAINS ON THE GPU",
        "  web-1  n1    gpu-a  8000Mi, 20 cores  24960Mi, 55 cores, 8 slots",
        "  web-2  n1    gpu-a  8000Mi, 20 cores  16960Mi, 35 cores, 7 slots",
        "  web-3  n1    gpu-a  8000Mi, 20 cores  8960Mi, 15 cores, 6 slots",
        "  web-4  n2    gpu-b  8000Mi, 20 cores  12480Mi, 80 cores, 9 slots",
        "  web-5: CardInsufficientCore (1/1 GPUs: need 20 cores, max free 15); NodeMismatch (1/2 nodes: 1 Insufficient "
        "cpu)",
    ]


def test_how_many_more_would_fit_is_counted_when_all_are_placed(cluster: Cluster, capsys: Capture) -> None:
    manifest = text(
        template("slice", memory="8000Mi", cores=20), deployment("web", "slice", 1), deployment("b", "slice", 1)
    )
    status, lines, _ = cluster.run(capsys, "fit", manifest)
    assert status == 0
    assert [line for line in lines if "more" in line] == [
        "Deployment default/web: 1 of 1 fit, and 2 more would",
        "Deployment default/b: 1 of 1 fit, and 2 more would",
    ]
    status, lines, _ = cluster.run(capsys, "fit", manifest, "--replicas", "2")
    assert (status, lines[0]) == (0, "Deployment default/web: 2 of 2 fit, and no more would")


@pytest.mark.parametrize("capacity", [True, False], ids=["gate on", "gate off"])
def test_the_number_is_what_the_gpus_hold(tmp_path: Path, capsys: Capture, capacity: bool) -> None:
    """10 slots, 100 cores and memory for 12: nine more after the first."""
    with ApiServer(consumable_capacity=capacity) as server:
        cluster = Cluster(server, tmp_path)
        cluster.node("n1", gpu("gpu-a", 12 * 1024), gpu("gpu-b", 12 * 1024))
        manifest = text(template("slice", memory="1Gi", cores=5), deployment("web", "slice", 1))
        assert cluster.run(capsys, "fit", manifest)[1][0] == "Deployment default/web: 1 of 1 fit, and 7 more would"
        found = cluster.json(capsys, "fit", manifest, "--replicas", "8")
        assert [one["devices"][0]["memoryBytes"] for one in found[0]["pods"]] == [1024 * MIB] * 8
        assert {one["devices"][0]["device"] for one in found[0]["pods"]} == {"gpu-a", "gpu-b"}


def test_templates_and_claims_of_the_cluster_are_found(cluster: Cluster, capsys: Capture) -> None:
    cluster.apply(template("there", memory="1000Mi"), claim("free", memory="2000Mi"))
    manifest = text(pod("a", template_name="there"), pod("b", "free"), pod("c", "busy"))
    status, lines, _ = cluster.run(capsys, "fit", manifest)
    assert status == 0
    assert [line for line in lines if line and "POD" not in line] == [
        "Pod default/a: 1 of 1 fit, and 17 more would",
        "  a    n1    gpu-a  1000Mi, 0 cores  31960Mi, 75 cores, 8 slots",
        "Pod default/b: 1 of 1 fit, others can share the same claims",
        "  b    n1    gpu-a  2000Mi, 0 cores  29960Mi, 75 cores, 7 slots",
        "Pod default/c: 1 of 1 fit, others can share the same claims",
        "  c    n1    -    allocated already  -",
    ]


def test_a_shared_claim_binds_all_its_pods_to_one_node(cluster: Cluster, capsys: Capture) -> None:
    second = pod("b", "new", nodeSelector={"kubernetes.io/hostname": "n2"})
    status, lines, _ = cluster.run(capsys, "fit", text(claim("new", memory="1000Mi"), pod("a", "new"), second))
    assert status == 1
    assert lines[-1] == "  b: NodeMismatch (1/1 nodes: node(s) didn't match Pod's node affinity/selector)"


def test_counting_how_many_more_would_fit_leaves_no_trace(cluster: Cluster, capsys: Capture) -> None:
    shared = deployment("shared", "", 0)
    shared["spec"]["template"]["spec"] |= pod("x", "new")["spec"]
    manifest = text(claim("new", memory="30Gi"), template("t", memory="30Gi"), shared, deployment("web", "t", 0))
    status, lines, _ = cluster.run(capsys, "fit", manifest)
    assert (status, [line for line in lines if line]) == (
        0,
        [
            "Deployment default/shared: 0 of 0 fit, others can share the same claims",
            "Deployment default/web: 0 of 0 fit, and 1 more would",
        ],
    )


def test_nothing_is_written(cluster: Cluster, capsys: Capture) -> None:
    before = [cluster.client.list(resource) for resource in (r.PODS, r.RESOURCE_CLAIMS, r.RESOURCE_CLAIM_TEMPLATES)]
    cluster.run(capsys, "fit", text(template("slice", memory="8000Mi"), deployment("web", "slice", 2)))
    assert before == [
        cluster.client.list(resource) for resource in (r.PODS, r.RESOURCE_CLAIMS, r.RESOURCE_CLAIM_TEMPLATES)
    ]


def test_the_quota_of_the_namespace_counts() -> None:
    node = {
        "metadata": {"name": "n1"},
        "status": {"allocatable": {"pods": "9", "cpu": "9"}, "conditions": [{"type": "Ready", "status": "True"}]},
    }
    pool = {"name": "n1", "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": "gpu.fracgpu.dev", "nodeName": "n1", "pool": pool, "devices": [gpu("gpu-a", 40960)]}
    quota = {"metadata": {"namespace": "default", "name": "q", "uid": "1"}, "spec": {"hard": {"memory": "2500Mi"}}}
    snapshot = Snapshot(
        lists={
            "nodes": [node],
            "resourceslices": [{"metadata": {"name": "s"}, "spec": spec}],
            "deviceclasses": [dict(item) for item in manifests.load(manifests.shipped())],
            "fractionquotas": [quota],
        }
    )
    [outcome] = Trial(snapshot, [template("t", memory="1000Mi"), deployment("web", "t", 3)]).run(None)
    assert [one.node for one in outcome.tried] == ["n1", "n1", ""]
    assert outcome.tried[2].why is not None
    assert "ResourceQuotaNotFit" in outcome.tried[2].why.message


def test_translated_manifests_fit_as_they_are(cluster: Cluster, capsys: Capture, tmp_path: Path) -> None:
    examples = Path(__file__).resolve().parents[2] / "examples" / "migrate"
    out = tmp_path / "out.yaml"
    assert main(["migrate", "-f", str(examples / "hami-training.yaml"), "-o", str(out)]) == 0
    capsys.readouterr()
    status, lines, _ = cluster.run(capsys, "fit", "-f", str(out))
    assert (status, lines[0]) == (0, "Job default/training: 1 of 1 fit, and 2 more would")
    assert lines[2].split()[:4] == ["training-1", "n1", "gpu-a", "20480Mi,"]


def test_what_is_not_looked_at_is_said(cluster: Cluster, capsys: Capture) -> None:
    hami = pod("old")
    hami["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": 1}}
    status, lines, said = cluster.run(capsys, "fit", text(hami, pod("none"), pod("c", "busy")))
    assert status == 0
    assert lines[0].startswith("Pod default/c")
    assert said == [
        "fracgpu fit: Pod default/old asks a device plugin for GPUs, not a claim; translate it with fracgpu migrate "
        "first",
        "fracgpu fit: Pod default/none has no claims: it is not looked at",
    ]


@pytest.mark.parametrize(
    ("manifest", "status", "message"),
    [
        (
            text(pod("a", template_name="none")),
            3,
            "ResourceClaimTemplate default/none is in no manifest and not in the",
        ),
        (text(pod("a", "none")), 3, "ResourceClaim default/none is in no manifest and not in the cluster"),
        (text({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}), 3, "have no pods in them"),
        (text({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c"}}), 3, "Pod c: has no pod in it"),
        ("a: [\n", 3, "is not YAML"),
    ],
)
def test_what_cannot_be_tried(cluster: Cluster, capsys: Capture, manifest: str, status: int, message: str) -> None:
    found, lines, said = cluster.run(capsys, "fit", manifest)
    assert (found, lines) == (status, [])
    assert len(said) == 1
    assert message in said[0]


def test_wrong_usage(cluster: Cluster, capsys: Capture) -> None:
    assert cluster.run(capsys, "fit", "-f", "/no/such/file.yaml")[0] == 2
    for words in (["fit"], ["fit", "-f", "x", "--replicas", "0"], ["fit", "-f", "x", "--replicas", "10001"]):
        with pytest.raises(SystemExit) as ended:
            cluster.run(capsys, *words)
        assert ended.value.code == 2


def test_many_pods_take_little_time(tmp_path: Path, capsys: Capture) -> None:
    """Ten thousand are tried at most; a workload that fits nowhere is explained once and not for each of its pods."""
    with ApiServer() as server:
        cluster = Cluster(server, tmp_path)
        cluster.node("n1", gpu("gpu-a", 1000), allocatable={"pods": "20000"})
        status, lines, _ = cluster.run(
            capsys, "fit", text(template("t", memory="300Mi"), deployment("web", "t", 10000))
        )
        assert (status, lines[0]) == (1, "Deployment default/web: 3 of 10000 fit")
        assert lines[-1].startswith(
            "  web-4 and 9996 more: CardInsufficientMemory (1/1 GPUs: need 300Mi, max free 100Mi)"
        )
