"""The lab as a library: the shipped plugin with real pods, from claim to release."""

import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fracgpu.driver.errors import FracgpuError
from fracgpu.native.libraries import DIRECTORY_ENV, NativeLibraries
from fracgpu.sim.lab.errors import LabTimeout, LabUnavailable
from fracgpu.sim.lab.lab import RESOURCE_API, Lab
from fracgpu.sim.lab.machine import make_base_directory
from fracgpu.sim.lab.options import MIB, LabOptions
from fracgpu.sim.lab.stage import Sizes, Stage
from fracgpu.sim.node.api import Json
from fracgpu.sim.node.errors import ContainerStartError


@pytest.fixture
def lab(native_build: NativeLibraries) -> Iterator[Lab]:
    with Lab() as running:
        yield running
        assert running.access.refused == [], "the driver lacked a right"


def files_below(*directories: Path) -> list[Path]:
    return [path for directory in directories if directory.exists() for path in directory.rglob("*") if path.is_file()]


def test_release_leaves_nothing_of_a_claim_on_the_node(lab: Lab) -> None:
    stage = Stage.prepare(lab)
    lab.apply(stage.manifest("one", 2000))
    pod = lab.wait_pod("one")
    (claim,) = lab.claims_of(pod)
    uid = claim["metadata"]["uid"]
    places = (lab.layout.cdi_dir, lab.layout.run_dir)
    assert any(uid in str(path) for path in files_below(*places))
    lab.delete_pod("one")
    assert not [path for path in files_below(*places) if uid in str(path)]
    assert not [path for path in lab.layout.run_dir.rglob("*") if uid in path.name]


def test_memory_of_a_pod_that_ended_can_be_given_again(lab: Lab) -> None:
    stage = Stage.prepare(lab)
    almost_all = stage.sizes.card_mib - 500
    lab.apply(stage.manifest("first", almost_all))
    lab.wait_pod("first")
    lab.apply(stage.manifest("second", almost_all))
    lab.delete_pod("first")
    lab.api.delete(f"{RESOURCE_API}/namespaces/default/resourceclaims/first")
    lab.wait_pod("second")


def test_a_claim_of_two_pods_is_one_account(lab: Lab) -> None:
    stage = Stage.prepare(lab)
    lab.apply(stage.manifest("one", 1024))
    pod_only = stage.manifest("one", 1024).split("---\n")[1]
    lab.apply(pod_only.replace("name: one", "name: two", 1))
    for name in ("one", "two"):
        lab.wait_pod(name)
    holder = lab.spawn("one", ["fracgpu-hold", "driver", "700"])
    assert b'"ready": true' in next(holder.lines())
    refused = lab.execute("two", ["fracgpu-hold", "driver", "700"])
    assert (refused.exit_code, '"ready": false' in refused.stdout) == (1, True)
    holder.terminate()
    holder.communicate()
    again = lab.spawn("two", ["fracgpu-hold", "driver", "700"])
    assert b'"ready": true' in next(again.lines())
    again.terminate()
    again.communicate()


def test_a_pod_without_claim_sees_no_gpu(lab: Lab) -> None:
    pod = Stage.prepare(lab).manifest("none", 1).split("---\n")[1]
    body, _, _ = pod.partition("    resources:")
    lab.apply(body.replace("  resourceClaims:\n  - name: gpu\n    resourceClaimName: none\n", ""))
    lab.wait_pod("none")
    result = lab.execute("none", ["fracgpu-hold", "driver", "1"])
    assert result.exit_code != 0
    assert 'ready": true' not in result.stdout


def test_without_plugin_a_pod_waits_with_a_reason(native_build: NativeLibraries) -> None:
    with Lab(LabOptions(plugin=False, deadline_s=2.0)) as lab:
        lab.apply(_MANIFEST_WITHOUT_SIZES)
        with pytest.raises(LabTimeout, match=r"pod default/one: is not Running: phase Pending.*NodeInsufficientDevice"):
            lab.wait_pod("one")


def test_the_kubelet_wiping_slices_does_not_lose_the_gpu(lab: Lab) -> None:
    slices = f"{RESOURCE_API}/resourceslices"
    (old,) = [item["metadata"] for item in lab.api.get(slices)["items"]]
    lab.api.delete(f"{slices}/{old['name']}")

    def published_again(found: dict[str, Json]) -> bool | None:
        return True if {item["metadata"]["uid"] for item in found.values()} - {old["uid"]} else None

    lab.wait_for(slices, published_again, what="slice published again")


def test_the_official_client_works(lab: Lab) -> None:
    from kubernetes import client

    nodes = client.CoreV1Api(lab.kube).list_node()
    assert [node.metadata.name for node in nodes.items] == ["lab-node"]


def test_a_command_in_a_pod_that_is_not_there(lab: Lab) -> None:
    pod = Stage.prepare(lab).manifest("big", 10**6)
    lab.apply(pod)
    with pytest.raises(ContainerStartError, match="does not run on node lab-node"):
        lab.execute("big", ["true"])


def test_missing_native_parts_name_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(DIRECTORY_ENV, str(tmp_path))
    with pytest.raises(FracgpuError, match="make native"), Lab(LabOptions(base_dir=tmp_path)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lab_that_cannot_start_leaves_nothing(
    native_build: NativeLibraries, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp("l")
    options = LabOptions(base_dir=base, allocator="nobody")  # type: ignore[arg-type]
    with pytest.raises(LabUnavailable, match=r"(?s)kubelet plugin: it ended.*--allocator"), Lab(options):
        pass
    assert list(base.iterdir()) == []


def test_a_place_for_the_lab_must_allow_libraries(tmp_path: Path) -> None:
    with pytest.raises(LabUnavailable, match="TMPDIR"):
        make_base_directory(tmp_path / "absent")


def test_a_place_that_containers_do_not_see_is_passed_over() -> None:
    with pytest.raises(LabUnavailable, match="outside /run"):
        make_base_directory(Path("/var/run"))


def test_a_relative_place_becomes_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        monkeypatch.chdir(short)
        assert make_base_directory(Path()).parent == short
    finally:
        shutil.rmtree(short)


def test_a_killed_lab_takes_its_processes_along(
    native_build: NativeLibraries, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp("l")
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from fracgpu.sim.lab.lab import Lab\n"
        "from fracgpu.sim.lab.options import LabOptions\n"
        "with Lab(LabOptions(base_dir=Path(sys.argv[1]))) as lab:\n"
        "    print(lab.plugin.pid, lab.controller.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(base)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        driver = [os.pidfd_open(int(pid)) for pid in process.stdout.readline().split()]
        process.kill()
        for one in driver:
            assert select.select([one], [], [], 60)[0], "a process of the driver outlived the lab"
            os.close(one)
        assert len(driver) == 2


@pytest.mark.parametrize(
    ("card_mib", "slice_mib", "third_mib"),
    [(49140, 8000, 41140), (24576, 4000, 20576), (15360, 2500, 12860), (6000, 1000, 5000)],
)
def test_sizes_follow_the_card(card_mib: int, slice_mib: int, third_mib: int) -> None:
    sizes = Sizes.for_card(card_mib)
    assert (sizes.slice_mib, sizes.third_mib) == (slice_mib, third_mib)
    assert sizes.free_mib < sizes.third_mib < sizes.card_mib
    assert sizes.slice_bytes == slice_mib * MIB


def test_a_card_too_small_is_refused() -> None:
    with pytest.raises(LabUnavailable, match="too small"):
        Sizes.for_card(4096)


_MANIFEST_WITHOUT_SIZES = """\
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: one}
spec:
  devices:
    requests:
    - name: gpu
      exactly: {deviceClassName: gpu.fracgpu.dev}
    config:
    - opaque:
        driver: gpu.fracgpu.dev
        parameters: {apiVersion: gpu.fracgpu.dev/v1alpha1, kind: FractionConfig, memory: 1Gi}
---
apiVersion: v1
kind: Pod
metadata: {name: one}
spec:
  resourceClaims:
  - {name: gpu, resourceClaimName: one}
  containers:
  - name: main
    image: none
    command: [sleep, infinity]
    resources: {claims: [{name: gpu}]}
"""
