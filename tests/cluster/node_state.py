"""What lies on the node because of claims, in every place where something could be left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fracgpu.kubeletplugin.prepare.checkpoint import CheckpointStore, ClaimEntry
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.kubeletplugin.proof.cgroup import parse_cgroup
from fracgpu.sim.node.api import Json
from tests.cluster.machine.layout import CDI_DIR, KUBELET_ROOT, PLUGIN_RUN, PLUGIN_STATE

ALLOCATIONS: Final = PLUGIN_RUN / "allocations"
LIBRARIES: Final = PLUGIN_STATE / "lib"
_CHECKPOINT: Final = PLUGIN_STATE / "checkpoint.json"
_KUBELET_CHECKPOINT: Final = KUBELET_ROOT / "dra_manager_state"


@dataclass(frozen=True, slots=True)
class NodeState:
    """Names of CDI specs and allocations, and UIDs of the claims that plugin and kubelet have on record."""

    specs: frozenset[str] = frozenset()
    allocations: frozenset[str] = frozenset()
    claims: frozenset[str] = frozenset()
    kubelet_claims: frozenset[str] = frozenset()


CLEAN: Final = NodeState()


def node_state() -> NodeState:
    """Look at the node."""
    return NodeState(_names(CDI_DIR), _names(ALLOCATIONS), plugin_claims(), kubelet_claims())


def plugin_claims() -> frozenset[str]:
    """Return the UIDs in the plugin's checkpoint."""
    return frozenset(_plugin_entries())


def plugin_claim_state(uid: str) -> str:
    """Return how far the plugin is with a claim, empty for one that it does not know."""
    entry = _plugin_entries().get(uid)
    return entry.state.value if entry else ""


def kubelet_claims() -> frozenset[str]:
    """Return the UIDs in the kubelet's checkpoint, which it writes before it calls the plugin."""
    if not _KUBELET_CHECKPOINT.exists():
        return frozenset()
    data = json.loads(json.loads(_KUBELET_CHECKPOINT.read_text())["Data"])
    return frozenset(one["ClaimUID"] for one in data["ClaimInfoStateList"] or ())


def processes_of(pod: Json, word: str = "") -> list[int]:
    """Return the processes in a pod's containers with `word` in their command line."""
    uid = pod["metadata"]["uid"]
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_of(path, uid, word.encode())]


def _is_of(process: Path, pod_uid: str, word: bytes) -> bool:
    try:
        container = parse_cgroup((process / "cgroup").read_text())
        return container is not None and container.pod_uid == pod_uid and word in (process / "cmdline").read_bytes()
    except OSError:  # it has ended
        return False


def _plugin_entries() -> Mapping[str, ClaimEntry]:
    return CheckpointStore(_CHECKPOINT, Files()).load().entries


def _names(directory: Path) -> frozenset[str]:
    return frozenset(path.name for path in directory.iterdir()) if directory.is_dir() else frozenset()
