"""`fracgpu top`: every number stands in the API, and what is not known is said to be so."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fracgpu.cli.main import main
from fracgpu.cli.shares import shares_of
from fracgpu.sim.api.server import ApiServer
from tests.cli.cluster import MIB, Cluster, claim, gpu, pod

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ApiServer() as server:
        yield Cluster(server, tmp_path)


@pytest.fixture
def busy(cluster: Cluster) -> Cluster:
    """Two nodes, three GPUs, two shares on one of them, a claim that waits, a taint, a second owner."""
    taint = {"key": "gpu.fracgpu.dev/unhealthy", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}
    cluster.node("n1", gpu("gpu-a", 49140), gpu("gpu-b", 49140, taints=[taint]))
    cluster.node("n2", gpu("gpu-c", 23034, product="L4"), allocatable={"nvidia.com/gpu": "1"})
    for name, memory in (("share-a", "8000Mi"), ("share-b", "8Gi"), ("waits", "9Gi")):
        cluster.apply(claim(name, memory=memory), pod(f"p-{name}", name))
    cluster.allocate("share-a", "n1", "gpu-a", "8000Mi", 25, "p-share-a")
    cluster.allocate("share-b", "n1", "gpu-a", "8Gi", 0, "p-share-b")
    cluster.observed("share-a", "True", "Enforced", 512)
    cluster.observed("share-b", "False", "LibraryNotLoaded", 0)
    return cluster


WARNING = (
    "second owner of the GPUs of node n2: NVIDIA's device plugin or HAMi offers 1 nvidia.com/gpu; keep its device "
    "plugin off this node (its DaemonSet's nodeSelector)"
)


def test_gpus(busy: Cluster, capsys: Capture) -> None:
    status, lines, said = busy.run(capsys, "top")
    assert (status, said) == (0, [])
    assert lines == [
        "NODE  GPU    PRODUCT       MEMORY  ALLOCATED     FREE   CORES  SHARERS  ALLOCATOR   HEALTH",
        "n1    gpu-a  NVIDIA L40S  49140Mi    16192Mi  32948Mi  25/100     2/10  controller  ok",
        "n1    gpu-b  NVIDIA L40S  49140Mi        0Mi  49140Mi   0/100     0/10  controller  "
        "gpu.fracgpu.dev/unhealthy:NoExecute",
        "n2    gpu-c  NVIDIA L4    23034Mi        0Mi  23034Mi   0/100     0/10  controller  ok",
        "",
        WARNING,
    ]


def test_claims(busy: Cluster, capsys: Capture) -> None:
    status, lines, _ = busy.run(capsys, "top", "claims")
    assert status == 0
    assert lines == [
        "NAMESPACE  CLAIM    REQUEST        NODE  GPU    MEMORY  CORES   USED  ENFORCED                  PODS",
        "default    share-a  gpu            n1    gpu-a  8000Mi     25  512Mi  True                      p-share-a",
        "default    share-b  gpu            n1    gpu-a  8192Mi      0    0Mi  False (LibraryNotLoaded)  p-share-b",
        "default    waits    not allocated  -     -           -      -      -  -                         p-waits",
        "",
        WARNING,
    ]
    assert busy.run(capsys, "top", "claims", "-n", "other")[1][0] == "no claim for gpu.fracgpu.dev in namespace other"


def test_nodes(busy: Cluster, capsys: Capture) -> None:
    _, lines, _ = busy.run(capsys, "top", "nodes")
    assert lines == [
        "NODE  GPUS   MEMORY  ALLOCATED     FREE  LARGEST   CORES  SHARERS  READY",
        "n1       2  98280Mi    16192Mi  82088Mi  32948Mi  25/200     2/20  yes",
        "n2       1  23034Mi        0Mi  23034Mi  23034Mi   0/100     0/10  yes",
        "",
        WARNING,
    ]


def test_json_has_the_same_numbers(busy: Cluster, capsys: Capture) -> None:
    found = busy.json(capsys, "top")
    first = found["gpus"][0]
    assert (first["node"], first["device"], first["uuid"]) == ("n1", "gpu-a", "GPU-gpu-a")
    assert first["free"] == {"memoryBytes": (49140 - 8000 - 8192) * MIB, "cores": 75, "slots": 8}
    assert [one["healthy"] for one in found["gpus"]] == [True, False, True]
    assert [one["node"] for one in found["secondOwners"]] == ["n2"]
    shares = [share for one in busy.json(capsys, "top", "claims")["claims"] for share in one["shares"]]
    assert [share["memoryBytes"] for share in shares] == [8000 * MIB, 8192 * MIB]
    assert busy.json(capsys, "top", "nodes")["nodes"][0]["largestFreeBytes"] == (49140 - 8000 - 8192) * MIB


def test_gpus_of_both_allocators_are_shown(cluster: Cluster, capsys: Capture) -> None:
    cluster.node("n1", gpu("gpu-a", 1000, allocator="scheduler"), gpu("gpu-b", 1000))
    _, lines, _ = cluster.run(capsys, "top")
    assert [line.split()[-2] for line in lines[1:]] == ["scheduler", "controller"]


def test_a_node_that_is_not_ready_is_said(cluster: Cluster, capsys: Capture) -> None:
    cluster.node("n1", gpu("gpu-a", 1000), ready=False)
    assert cluster.run(capsys, "top", "nodes")[1][1].endswith("no")


def test_a_cluster_without_gpus(cluster: Cluster, capsys: Capture) -> None:
    status, lines, _ = cluster.run(capsys, "top")
    assert (status, lines) == (
        0,
        [
            "no GPU of gpu.fracgpu.dev is published; look at the pods of fracgpu's plugin, and run fracgpu doctor",
        ],
    )
    assert cluster.json(capsys, "top") == {"gpus": [], "secondOwners": []}


def test_no_answer_is_one_line_and_status_3(tmp_path: Path, capsys: Capture) -> None:
    with ApiServer() as server:
        kubeconfig = server.write_kubeconfig(tmp_path / "config")
    for path in (kubeconfig, tmp_path / "none"):
        assert main(["top", "--kubeconfig", str(path)]) == 3
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1
        assert captured.err.startswith("fracgpu top: ")
        assert "--kubeconfig" in captured.err
    assert captured.err.startswith(f"fracgpu top: kubeconfig {tmp_path / 'none'}: is not there; ")


def test_the_kubeconfig_is_found_as_kubectl_finds_it(
    busy: Cluster, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(busy.kubeconfig))
    assert main(["top", "nodes"]) == 0
    assert capsys.readouterr().out.startswith("NODE")


def test_doctor_tells_of_second_owners_in_the_cluster(busy: Cluster, capsys: Capture) -> None:
    busy.slice("n1", "gpu.nvidia.com", {"name": "gpu-0"})
    _, lines, _ = busy.run(capsys, "doctor", "--json")
    found: list[dict[str, Any]] = json.loads("\n".join(lines))["findings"]
    cluster = [one for one in found if one["check"] == "other owners in the cluster"]
    assert [(one["level"], one["what"]) for one in cluster] == [
        ("warn", "node n1: NVIDIA's DRA driver gpu.nvidia.com publishes GPUs"),
        ("warn", "node n2: NVIDIA's device plugin or HAMi offers 1 nvidia.com/gpu"),
    ]


def test_admin_access_holds_nothing_and_a_result_without_amounts_the_whole_gpu() -> None:
    results = [
        {"request": "look", "driver": "gpu.fracgpu.dev", "pool": "n1", "device": "gpu-a", "adminAccess": True},
        {"request": "nic", "driver": "example.com", "pool": "n1", "device": "nic-0"},
        {
            "request": "use",
            "driver": "gpu.fracgpu.dev",
            "pool": "n1",
            "device": "gpu-b",
            "consumedCapacity": {"memory": "1Gi", "cores": "5", "slots": "1"},
        },
        {"request": "all", "driver": "gpu.fracgpu.dev", "pool": "n1", "device": "gpu-c"},
    ]
    shares = shares_of({"status": {"allocation": {"devices": {"results": results}}}})
    assert [(share.request, share.memory, share.cores) for share in shares] == [
        ("look", "admin", ""),
        ("use", "1024Mi", "5"),
        ("all", "whole GPU", ""),
    ]
    assert [share.as_json()["memoryBytes"] for share in shares] == [None, 1024 * MIB, None]
