"""The five exercises: they pass, and each fails when what it shows is not so."""

import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fracgpu.driver.amounts import Allocator
from fracgpu.native.fake_gpu import read_usage
from fracgpu.native.libraries import NativeLibraries
from fracgpu.sim.lab import bundle, e1_co_residency
from fracgpu.sim.lab.errors import LabUnavailable
from fracgpu.sim.lab.evidence import Evidence
from fracgpu.sim.lab.lab import Lab
from fracgpu.sim.lab.options import MIB, Card, LabOptions
from fracgpu.sim.lab.run import LabReport, run_exercise, run_exercises
from fracgpu.sim.lab.stage import SHARING_PODS, Stage
from fracgpu.sim.node.cdi_registry import CdiRegistry, ContainerEdits, Mount
from fracgpu.sim.node.isolation import USER_NAMESPACE, probe_isolation
from fracgpu.sim.node.runtime import CdiResolver

LIBRARIES = ("libcuda.so", "libnvidia-ml.so")


class EditedCdi:
    """Reads CDI files as a runtime does, then spoils what it read."""

    def __init__(self, directories: Sequence[Path], spoil: Callable[[ContainerEdits], ContainerEdits]) -> None:
        self._registry = CdiRegistry(directories)
        self._spoil = spoil

    def resolve(self, device_ids: Iterable[str]) -> ContainerEdits:
        return self._spoil(self._registry.resolve(device_ids))


def is_shim(mount: Mount) -> bool:
    return Path(mount.container_path).name.startswith(LIBRARIES) and not mount.container_path.startswith("/run/")


def without_shims(edits: ContainerEdits) -> ContainerEdits:
    return replace(edits, mounts=tuple(mount for mount in edits.mounts if not is_shim(mount)))


def real_driver_in_place_of_shims(edits: ContainerEdits) -> ContainerEdits:
    """What a second CDI device with the same container paths does: the driver's own library wins, silently."""
    real = {Path(mount.container_path).name: mount.host_path for mount in edits.mounts if not is_shim(mount)}

    def swap(mount: Mount) -> Mount:
        stem = Path(mount.container_path).name.partition(".so")[0]
        return replace(mount, host_path=real[f"{stem}.so.1"]) if is_shim(mount) else mount

    return replace(edits, mounts=tuple(map(swap, edits.mounts)))


def without_config_pages(edits: ContainerEdits) -> ContainerEdits:
    return replace(edits, mounts=tuple(mount for mount in edits.mounts if not mount.container_path.endswith("/config")))


def writable_config_pages(edits: ContainerEdits) -> ContainerEdits:
    def open_up(mount: Mount) -> Mount:
        return replace(mount, options=()) if mount.container_path.endswith("/config") else mount

    return replace(edits, mounts=tuple(map(open_up, edits.mounts)))


def without_variables(edits: ContainerEdits) -> ContainerEdits:
    return replace(edits, env={})


def failed(report: LabReport) -> set[str]:
    return {f"E{outcome.number}" for outcome in report.outcomes if not outcome.passed}


def run(fallback: bool = False, spoil: Callable[[ContainerEdits], ContainerEdits] | None = None) -> LabReport:
    def spoiled(directories: Sequence[Path]) -> CdiResolver:
        return EditedCdi(directories, spoil or (lambda edits: edits))

    return run_exercises(LabOptions(fallback=fallback, cdi=spoiled))


@pytest.mark.parametrize(
    ("fallback", "allocator"),
    [(False, "controller"), (True, "controller"), (False, "scheduler")],
    ids=["namespaces", "standalone", "kube-scheduler"],
)
def test_all_exercises_pass(
    native_build: NativeLibraries, tmp_path_factory: pytest.TempPathFactory, fallback: bool, allocator: Allocator
) -> None:
    if not fallback and not probe_isolation().mounts:
        pytest.skip(probe_isolation().description)
    directory = tmp_path_factory.mktemp("l")
    archived = directory / "out.tgz"
    headlines: list[str] = []
    options = LabOptions(fallback=fallback, allocator=allocator, base_dir=directory)
    report = run_exercises(options, bundle_path=archived, on_headline=headlines.append)
    assert {outcome.number: outcome.error for outcome in report.outcomes} == dict.fromkeys(range(1, 6), "")
    assert [check for outcome in report.outcomes for check in outcome.evidence.checks if not check.held] == []
    assert report.passed
    assert "simulated GPU" in headlines[0]
    assert f"allocator: {e1_co_residency.ALLOCATORS[allocator]};" in headlines[0]
    assert ("standalone prefix" in headlines[0]) is fallback
    # Nothing is left of the lab but what was asked for.
    assert list(directory.iterdir()) == [archived]
    with tarfile.open(archived) as archive:
        names = {name.removeprefix("fracgpu-lab/") for name in archive.getnames()}
        member = archive.extractfile("fracgpu-lab/result.json")
        assert member is not None
        result = json.load(member)
        described = archive.extractfile("fracgpu-lab/describe-resourceclaim.txt")
        assert described is not None
        description = described.read().decode()
    assert {
        "result.json",
        "pods.json",
        "events.json",
        "resourceclaims.json",
        "resourceslices.json",
        "leases.json",
        "plugin.log",
        "controller.log",
    } <= names
    assert [name for name in names if name.startswith("cdi/")]
    for name in SHARING_PODS:
        assert f"Name:         {name}\nNamespace:    default\n" in description
    assert [one["passed"] for one in result["exercises"]] == [True] * 5
    assert {"fracgpu", "machine", "headline"} <= set(result)
    seen = {check["expected"]: check["seen"] for one in result["exercises"] for check in one["checks"]}
    assert ("2 of 2" if allocator == "controller" else "0 of 2") in seen[
        f"{e1_co_residency.ALLOCATORS[allocator]} has allocated them"
    ]
    assert "cannot allocate all claims. still not schedulable, preemption:" in seen["the third pod is Pending"]
    data = {one["exercise"]: one["data"] for one in result["exercises"]}
    assert data["E5"]["config page"]["memory_limit_bytes"] == 8000 * MIB
    assert data["E3"]["share-a state file"]["refusals"] == 2


@pytest.mark.parametrize("fallback", [False, True], ids=["namespaces", "standalone"])
@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (without_shims, {"E2", "E3", "E5"}),
        (real_driver_in_place_of_shims, {"E2", "E3", "E5"}),
    ],
    ids=["shims not mounted", "the driver's own library wins"],
)
def test_without_the_interceptor_the_exercises_fail(
    native_build: NativeLibraries,
    fallback: bool,
    spoil: Callable[[ContainerEdits], ContainerEdits],
    expected: set[str],
) -> None:
    assert failed(run(fallback, spoil)) == expected


@pytest.mark.parametrize(
    ("spoil", "expected"),
    # The interceptor takes no page that the container could write to: the GPU stays closed.
    [(writable_config_pages, {"E2", "E3", "E5"}), (without_variables, {"E5"})],
    ids=["writable page", "no variables"],
)
def test_a_broken_mechanism_is_seen(
    native_build: NativeLibraries, spoil: Callable[[ContainerEdits], ContainerEdits], expected: set[str]
) -> None:
    if not probe_isolation().mounts:
        pytest.skip(probe_isolation().description)
    assert failed(run(spoil=spoil)) == expected


@pytest.mark.parametrize("allocator", ["controller", "scheduler"])
def test_without_the_controller_the_exercises_say_what_is_missing(
    native_build: NativeLibraries, allocator: Allocator
) -> None:
    """kube-scheduler gets along without it, but then nobody tells what a pod got, or why it got nothing."""
    with Lab(LabOptions(controller=False, allocator=allocator, deadline_s=2.0)) as lab:
        stage = Stage.prepare(lab)
        outcomes = [run_exercise(number, stage) for number in (1, 4)]
        phases = {name: lab.pod(name)["status"]["phase"] for name in SHARING_PODS}
    assert [one.passed for one in outcomes] == [False, False]
    if allocator == "controller":
        assert set(phases.values()) == {"Pending"}
        words = "none holds the Lease fracgpu-system/fracgpu-controller"
        assert all(part in outcomes[0].error for part in ("cannot allocate all claims", words, "start the controller"))
    else:
        assert set(phases.values()) == {"Running"}
        assert "ClaimAllocated in an event of pod share-a" in outcomes[0].error
    assert "event ClaimUnschedulable of Pod too-big" in outcomes[1].error


@pytest.mark.parametrize("place", ["absent/out.tgz", "."], ids=["no such directory", "a directory"])
def test_a_bundle_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, place: str) -> None:
    headlines: list[str] = []
    with pytest.raises(LabUnavailable, match=r"bundle .* cannot be written"):
        run_exercises(LabOptions(), bundle_path=tmp_path / place, on_headline=headlines.append)
    assert headlines == []
    assert list(tmp_path.iterdir()) == []


def test_half_a_bundle_is_not_left(tmp_path: Path) -> None:
    with pytest.raises(LabUnavailable, match="No space left on device"):
        bundle.write(Path("/dev/full"), {}, {})
    assert Path("/dev/full").exists()
    path = tmp_path / "out.tgz"
    bundle.require_writable(path)
    assert not path.exists()
    bundle.write(path, {"a": b"1"}, {})
    bundle.require_writable(path)
    with tarfile.open(path) as archive:
        names = archive.getnames()
    assert names == ["fracgpu-lab/a", "fracgpu-lab/result.json"]


def test_without_config_pages_nothing_is_handed_out(native_build: NativeLibraries) -> None:
    if not probe_isolation().mounts:
        pytest.skip(probe_isolation().description)
    options = LabOptions(cdi=lambda directories: EditedCdi(directories, without_config_pages))
    with Lab(options) as lab:
        stage = Stage.prepare(lab)
        e1_co_residency.run(stage, Evidence())
        for name in SHARING_PODS:
            result = lab.execute(name, ["fracgpu-climb", "driver", "256"])
            assert result.exit_code != 0
            assert '"step"' not in result.stdout
        assert read_usage(lab.layout.machine)[0].peak_used_bytes == 0


def test_all_exercises_pass_in_user_namespaces(native_build: NativeLibraries, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user without privileges gets, also when the tests run as root."""
    isolation = probe_isolation(candidates=(USER_NAMESPACE,))
    if not isolation.mounts:
        pytest.skip(isolation.description)
    monkeypatch.setattr("fracgpu.sim.lab.lab.probe_isolation", lambda: isolation)
    report = run_exercises(LabOptions())
    assert failed(report) == set()
    assert "user+mount namespaces" in report.headline


def test_another_card_has_other_sizes(native_build: NativeLibraries) -> None:
    report = run_exercises(LabOptions(cards=(Card(product_name="NVIDIA T4 (model)", memory_mib=15360),)))
    assert report.passed
    assert "NVIDIA T4 (model), 15360 MiB" in report.headline
