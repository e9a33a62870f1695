"""`fracgpu explain`: what is asked, where it is, or why it is nowhere, with the numbers of each GPU."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fracgpu.sim.api import resources as r
from fracgpu.sim.api.server import ApiServer
from tests.cli.cluster import MIB, Cluster, claim, gpu, pod

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two nodes with three different GPUs, one of them shared, one unhealthy."""
    taint = {"key": "gpu.fracgpu.dev/unhealthy", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}
    with ApiServer() as server:
        made = Cluster(server, tmp_path)
        made.node("n1", gpu("gpu-a", 49140), gpu("gpu-b", 49140, taints=[taint]))
        made.node("n2", gpu("gpu-c", 23034, product="L4"))
        made.apply(claim("share-a", memory="8000Mi", cores=25), pod("share-a", "share-a"))
        made.allocate("share-a", "n1", "gpu-a", "8000Mi", 25, "share-a")
        made.observed("share-a", "True", "Enforced", 512)
        yield made


def test_a_pod_that_waits(cluster: Cluster, capsys: Capture) -> None:
    cluster.apply(claim("big", memory="45000Mi", cores=30), pod("big", "big"))
    status, lines, said = cluster.run(capsys, "explain", "pod/big")
    assert (status, said) == (1, [])
    assert lines == [
        "Pod default/big waits for 1 claim",
        "",
        "Claim default/big",
        "  asks  gpu: 1 GPU of class gpu.fracgpu.dev, memory 45000Mi, cores 30",
        "",
        "Why",
        "  CardInsufficientMemory (1/3 GPUs: need 45000Mi, max free 41140Mi)",
        "  AmountsExceedDevice (1/3 GPUs: memory 45000Mi is more than the GPU's 23034Mi)",
        "  CardNotHealth (1/3 GPUs: untolerated taint gpu.fracgpu.dev/unhealthy:NoExecute)",
        "",
        "NODE  GPU    REQUEST  MEMORY ASKED     FREE  CORES ASKED  FREE  SLOTS FREE  VERDICT",
        "n1    gpu-a  gpu           45000Mi  41140Mi           30    75           9  too little memory",
        "n1    gpu-b  gpu                 -  49140Mi            -   100          10  "
        "untolerated taint gpu.fracgpu.dev/unhealthy:NoExecute",
        "n2    gpu-c  gpu                 -  23034Mi            -   100          10  "
        "memory 45000Mi is more than the GPU's 23034Mi",
    ]
    assert cluster.run(capsys, "explain", "claim/big")[1][2:] == lines[2:]


def test_a_pod_that_has_its_share(cluster: Cluster, capsys: Capture) -> None:
    status, lines, _ = cluster.run(capsys, "explain", "po/share-a")
    share = [
        "Claim default/share-a",
        "  asks  gpu: 1 GPU of class gpu.fracgpu.dev, memory 8000Mi, cores 25",
        "  has   gpu: 8000Mi of 49140Mi, 25 cores, on node n1 GPU gpu-a, share 0a1b2c3d, used 512Mi, enforced: True",
    ]
    assert (status, lines) == (
        0,
        ["Pod default/share-a has its GPUs; kube-scheduler has not bound it yet", "", *share],
    )
    status, lines, _ = cluster.run(capsys, "explain", "claim/share-a")
    assert (status, lines) == (0, ["Claim default/share-a is allocated; used by pods: share-a", "", *share])


def test_what_kube_scheduler_says_of_a_pod_with_its_gpus(cluster: Cluster, capsys: Capture) -> None:
    condition = {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available: 1 Too many pods."}
    cluster.edit(r.PODS, "share-a", {"conditions": [condition]})
    status, lines, _ = cluster.run(capsys, "explain", "pod/share-a")
    assert status == 0
    assert lines[-2:] == ["Why", "  kube-scheduler says: 0/2 nodes are available: 1 Too many pods."]


def test_a_node_on_which_the_pod_cannot_run(cluster: Cluster, capsys: Capture) -> None:
    spec: dict[str, Any] = {"nodeSelector": {"kubernetes.io/hostname": "n2"}}
    cluster.apply(claim("big", memory="30000Mi"), pod("big", "big", **spec))
    status, lines, _ = cluster.run(capsys, "explain", "pod/big")
    assert status == 1
    assert "  NodeMismatch (1/2 nodes: 1 node(s) didn't match Pod's node affinity/selector)" in lines
    assert [line.split("  ")[-1] for line in lines if line.startswith("n1")] == [
        "node(s) didn't match Pod's node affinity/selector"
    ] * 2


def test_room_that_nobody_has_taken_yet(cluster: Cluster, capsys: Capture) -> None:
    cluster.apply(claim("small", memory="1000Mi"), pod("small", "small"))
    status, lines, _ = cluster.run(capsys, "explain", "pod/small")
    assert status == 1
    assert "  there is room on node n1 (gpu-a): the controller has not allocated it yet" in lines
    assert [line.split()[-1] for line in lines if line.startswith("n")] == ["fits", "fits", lines[-1].split()[-1]]


def test_a_claim_that_nobody_uses(cluster: Cluster, capsys: Capture) -> None:
    cluster.apply(claim("alone", memory="1000Mi"))
    status, lines, _ = cluster.run(capsys, "explain", "claim/alone")
    assert status == 1
    assert lines[0] == "Claim default/alone is not allocated"
    why = lines.index("Why")
    assert lines[why + 1 : why + 3] == [
        "  no pod uses the claim: it is allocated when one does, or ahead with the annotation "
        "gpu.fracgpu.dev/allocate: Immediate",
        "  there is room on node n1 (gpu-a)",
    ]


def test_a_pod_with_its_own_node_is_the_controllers_business(cluster: Cluster, capsys: Capture) -> None:
    cluster.apply(claim("c", memory="1Mi"), pod("p", "c", nodeName="n1"))
    lines = cluster.run(capsys, "explain", "pod/p")[1]
    assert lines[lines.index("Why") + 1].startswith("  there is room on node n1 (gpu-a): the controller")


def test_a_pod_that_goes_past_kube_scheduler_is_not_told_to_wait(tmp_path: Path, capsys: Capture) -> None:
    """There is room, and yet nobody will ever allocate: that is what to say, not whose turn it is."""
    why = [
        "Why",
        "  the pod is bound to node n1 already (nodeName), past kube-scheduler: nobody allocates for it; "
        "create it with a nodeSelector instead",
    ]
    with ApiServer() as server:
        cluster = Cluster(server, tmp_path)
        cluster.node("n1", gpu("gpu-a", 1000, allocator="scheduler"))
        wanted = claim("c")
        wanted["spec"]["devices"]["requests"][0]["exactly"]["capacity"] = {"requests": {"memory": "1Mi"}}
        cluster.apply(wanted, pod("p", "c", nodeName="n1"))
        for named in ("pod/p", "claim/c"):
            status, lines, _ = cluster.run(capsys, "explain", named)
            assert (status, lines[-2:]) == (1, why)
        # Another pod of the same claim goes the usual way, and takes this one along.
        cluster.apply(pod("q", "c"))
        lines = cluster.run(capsys, "explain", "claim/c")[1]
        assert lines[lines.index("Why") + 1].startswith("  there is room on node n1 (gpu-a)")


def test_a_claim_that_cannot_be_understood(cluster: Cluster, capsys: Capture) -> None:
    cluster.apply(claim("odd", memory="1000Mi", strict=True), pod("odd", "odd"))
    status, lines, _ = cluster.run(capsys, "explain", "pod/odd")
    assert status == 1
    [why] = lines[lines.index("Why") + 1 :]
    assert why.startswith("  ConfigInvalid (")
    assert "strict" in why


@pytest.mark.parametrize(
    ("objects", "name", "title", "why"),
    [
        (
            [pod("p", template_name="nope")],
            "p",
            "Pod default/p waits for 1 claim",
            "  claim gpu has not been made from template nope: look whether the template exists",
        ),
        (
            [pod("p", "nope")],
            "p",
            "Pod default/p waits for 1 claim",
            "  claim gpu: the ResourceClaim that it names does not exist; create it",
        ),
        (
            [claim("c", memory="1Mi"), pod("p", "c", schedulingGates=[{"name": "example.com/g"}])],
            "p",
            "Pod default/p waits for 1 claim",
            "  the pod has scheduling gates (example.com/g): nothing is allocated before they are taken away",
        ),
        ([pod("p")], "p", "Pod default/p has no claim for gpu.fracgpu.dev", None),
    ],
    ids=["no template", "no claim", "gates", "no GPUs"],
)
def test_what_comes_before_allocation(
    cluster: Cluster, capsys: Capture, objects: list[Any], name: str, title: str, why: str | None
) -> None:
    cluster.apply(*objects)
    status, lines, _ = cluster.run(capsys, "explain", f"pod/{name}")
    assert lines[0] == title
    assert (lines[-1], status) == (why or title, 1 if why else 0)


def test_a_cluster_where_kube_scheduler_allocates(tmp_path: Path, capsys: Capture) -> None:
    with ApiServer() as server:
        cluster = Cluster(server, tmp_path)
        cluster.node("n1", gpu("gpu-a", 1000, allocator="scheduler"))
        wanted = claim("big")
        wanted["spec"]["devices"]["requests"][0]["exactly"]["capacity"] = {"requests": {"memory": "900Mi"}}
        cluster.apply(wanted, pod("one", "big"))
        _, lines, _ = cluster.run(capsys, "explain", "pod/one")
        assert "  there is room on node n1 (gpu-a): kube-scheduler has not allocated it yet" in lines


def test_json_has_the_same_numbers(cluster: Cluster, capsys: Capture) -> None:
    cluster.apply(claim("big", memory="45000Mi", cores=30), pod("big", "big"))
    found = cluster.json(capsys, "explain", "pod/big")
    assert found["complete"] is False
    assert [reason["code"] for reason in found["reasons"]] == [
        "CardInsufficientMemory",
        "AmountsExceedDevice",
        "CardNotHealth",
    ]
    assert found["gpus"][0]["asked"] == {"memoryBytes": 45000 * MIB, "cores": 30}
    assert found["gpus"][0]["free"] == {"memoryBytes": 41140 * MIB, "cores": 75, "slots": 9}
    assert [one["fits"] for one in found["gpus"]] == [False, False, False]
    share = cluster.json(capsys, "explain", "pod/share-a")["claims"][0]["shares"][0]
    assert (share["memoryBytes"], share["enforced"]) == (8000 * MIB, "True")


def test_what_is_not_there(cluster: Cluster, capsys: Capture) -> None:
    assert cluster.run(capsys, "explain", "pod/none") == (
        3,
        [],
        ["fracgpu explain: pod default/none: is not there; check the name, and give its namespace with -n"],
    )
    assert cluster.run(capsys, "explain", "claim/share-a", "-n", "other")[0] == 3


@pytest.mark.parametrize("word", ["big", "node/n1", "pod/", "pod/a/b"])
def test_wrong_usage(cluster: Cluster, capsys: Capture, word: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cluster.run(capsys, "explain", word)
    assert ended.value.code == 2
    assert "neither pod/NAME nor claim/NAME" in capsys.readouterr().err
