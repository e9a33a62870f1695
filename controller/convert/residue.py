"""What else of a pod was said to a device plugin, its scheduler or NVIDIA's runtime, and has nobody to listen now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from fracgpu.controller.convert import dialects
from fracgpu.controller.convert.edits import Edit, Json, Path, Remove
from fracgpu.controller.convert.findings import Findings

_DEFAULT_SCHEDULER: Final = "default-scheduler"
_UNLIMITED: Final = ("CUDA_DISABLE_CONTROL", "DISABLE_VGPU_CONTROL")


def clean_pod(pod: Json, path: Path, findings: Findings, *, uses_gpus: bool) -> Iterator[Edit]:
    """Yield the edits of a pod, or pod template, at `path`; of one without GPUs only another's scheduler is taken."""
    spec = pod["spec"]
    scheduler = spec.get("schedulerName")
    if scheduler in dialects.SCHEDULERS:
        findings.note(f"schedulerName {scheduler} is dropped: kube-scheduler places the pod")
        yield Remove((*path, "spec", "schedulerName"))
    if not uses_gpus:
        return
    if scheduler not in (None, _DEFAULT_SCHEDULER, *dialects.SCHEDULERS):
        findings.note(f"schedulerName {scheduler} is kept: it must know ResourceClaims of resource.k8s.io/v1")
    if spec.get("nodeName"):
        findings.note(
            f"nodeName {spec['nodeName']} goes past the scheduler: nobody reserves the claim; use a nodeSelector"
        )
    runtime = spec.get("runtimeClassName")
    if runtime in dialects.RUNTIME_CLASSES:
        findings.note(f"runtimeClassName {runtime} is dropped: the claim brings the driver into the container")
        yield Remove((*path, "spec", "runtimeClassName"))
    yield from _annotations(pod.get("metadata"), path)


def _annotations(meta: Any, path: Path) -> Iterator[Edit]:
    annotations = meta.get("annotations") if isinstance(meta, dict) else None
    if not isinstance(annotations, dict):
        return
    gone = [name for name in annotations if name in dialects.ANNOTATIONS]
    if gone and len(gone) == len(annotations):
        yield Remove((*path, "metadata", "annotations"))
        return
    for name in gone:
        yield Remove((*path, "metadata", "annotations", name))


def clean_container(container: Json, path: Path, findings: Findings) -> Iterator[Edit]:
    """Yield the edits of one container that uses GPUs."""
    variables = container.get("env") or []
    if not isinstance(variables, list):
        return
    gone = [
        position
        for position, variable in enumerate(variables)
        if isinstance(variable, dict) and dialects.is_environment(str(variable.get("name")), variable.get("value"))
    ]
    for position in gone:
        name = str(variables[position]["name"])
        reason = "the limit always holds" if name in _UNLIMITED else "the claim decides what the container sees"
        findings.note(f"env {name} is dropped: {reason}")
    if gone and len(gone) == len(variables):
        yield Remove((*path, "env"))
        return
    for position in reversed(gone):
        yield Remove((*path, "env", position))
