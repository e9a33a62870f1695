"""Exercise 5: how it works, seen from inside and from outside.

CDI file, mounts, library, config page, environment, and the rights that it took.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from fracgpu.driver.names import (
    CONTAINER_ALLOCATIONS_DIR,
    allocation_env_key,
    allocation_hash,
    cdi_device_id,
)
from fracgpu.native.abi import CONFIG_FILE_BYTES
from fracgpu.native.config_page import decode_config_page
from fracgpu.sim.lab import proof_checks
from fracgpu.sim.lab.allocations import allocation_directory, allocation_ids, cdi_file
from fracgpu.sim.lab.evidence import Evidence, mib
from fracgpu.sim.lab.node import NodeUnderTest, Rights
from fracgpu.sim.lab.stage import SHARING_PODS, Stage
from fracgpu.sim.node.api import Json
from fracgpu.sim.node.mounts import unescape_mount_path

TITLE = "the mechanism: CDI file, mounted interceptor, config page"

_LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1")


def run(stage: Stage, evidence: Evidence) -> None:
    """Follow the chain of the first pod from its claim to the library in its container.

    Where nobody can look at the node, what the pod sees and what the plugin says of it is all there is.
    """
    name = SHARING_PODS[0]
    claim = stage.claim(name)
    if stage.node:
        spec = _check_cdi_file(stage.node, evidence, claim)
        mounts = {mount["containerPath"]: mount["hostPath"] for mount in _mounts(spec)}
        if stage.node.isolation.mounts:
            _check_mounts(stage, stage.node, evidence, name, mounts)
        else:
            _check_prefix(stage, stage.node, evidence, name)
        _check_config_page(stage, stage.node, evidence, claim)
    _check_environment(stage, evidence, name, claim)
    if stage.node:
        check_rights("the plugin", stage.node.plugin_rights(), evidence)
    if rights := stage.cluster.controller_rights():
        check_rights("fracgpu's controller", rights, evidence)
    proof_checks.run(stage, evidence)


def _check_cdi_file(node: NodeUnderTest, evidence: Evidence, claim: Json) -> Json:
    path = cdi_file(node.cdi_dir, claim)
    spec: Json = json.loads(path.read_bytes())
    device_ids = {f"{spec['kind']}={device['name']}" for device in spec["devices"]}
    expected = {cdi_device_id(allocation) for allocation in allocation_ids(claim)}
    evidence.check(
        "the CDI file on disk names the claim's allocation",
        device_ids == expected,
        f"{path.name} (cdiVersion {spec['cdiVersion']}): {', '.join(sorted(device_ids))}",
    )
    evidence.data["cdi"] = spec
    return spec


def _check_mounts(stage: Stage, node: NodeUnderTest, evidence: Evidence, name: str, mounts: dict[str, str]) -> None:
    """Compare the container's own mount table and the bytes that it sees with the CDI file and the library store."""
    mountinfo = stage.output_of(name, ["cat", "/proc/self/mountinfo"])
    seen = {unescape_mount_path(line.split(" ")[4]) for line in mountinfo.splitlines()}
    resolved = {str(Path(target).resolve()) for target in mounts}
    missing = sorted(resolved - seen)
    evidence.check(
        "the container's mount table has every mount of the file",
        bool(resolved) and not missing,
        f"{len(resolved)} mounts, missing: {', '.join(missing) or 'none'}",
    )
    for library in _LIBRARIES:
        targets = [target for target in mounts if target.endswith(f"/{library}") and not target.startswith("/run/")]
        inside = {path: _digest_inside(stage, name, path) for path in targets}
        ours = node.interceptor_digest("container", library)
        evidence.check(
            f"{library} in the container is the interceptor (sha256 {ours[:16]}...)",
            bool(inside) and set(inside.values()) == {ours},
            ", ".join(f"{digest[:16]}... at {path}" for path, digest in inside.items()) or "not mounted",
        )
    evidence.data["mountinfo"] = mountinfo


def _check_prefix(stage: Stage, node: NodeUnderTest, evidence: Evidence, name: str) -> None:
    """Without namespaces: the prefix that LD_LIBRARY_PATH names holds the stand-alone interceptor."""
    prefix = stage.output_of(name, ["sh", "-c", 'echo "$FRACGPU_PREFIX"']).strip()
    for library in _LIBRARIES:
        seen = _digest_inside(stage, name, f"{prefix}/{library}")
        ours = node.interceptor_digest("standalone", library)
        evidence.check(
            f"{library} in the prefix is the stand-alone interceptor (sha256 {ours[:16]}...)",
            seen == ours,
            f"{seen[:16]}... at {_short(node, prefix)}/{library}",
        )


def _check_config_page(stage: Stage, node: NodeUnderTest, evidence: Evidence, claim: Json) -> None:
    allocation = allocation_ids(claim)[0]
    on_node = allocation_directory(node.run_dir, claim) / "config"
    page = decode_config_page(on_node.read_bytes())
    evidence.data["config page"] = asdict(page)
    limit = page.memory_limit_bytes
    evidence.check(
        "the config page says what the claim says",
        page.allocation_id == allocation and limit == stage.sizes.slice_bytes,
        f"{page.allocation_id}: {'no limit' if limit is None else mib(limit)}, cores {page.cores_percent}",
    )
    if node.isolation.mounts:
        _check_page_inside(stage, evidence, claim["metadata"]["name"], on_node, allocation)


def _check_page_inside(stage: Stage, evidence: Evidence, name: str, on_node: Path, allocation: str) -> None:
    path = f"{CONTAINER_ALLOCATIONS_DIR}/{allocation}/config"
    # The page alone: what follows it in the file the host writes anew each second.
    digest = hashlib.sha256(on_node.read_bytes()[:CONFIG_FILE_BYTES]).hexdigest()
    seen = stage.output_of(name, ["sh", "-c", f"head -c {CONFIG_FILE_BYTES} {path} | sha256sum"]).split()[0]
    result = stage.cluster.execute(name, ["sh", "-c", f": >> {path}"], namespace=stage.namespace)
    evidence.check(
        "the container sees that page and cannot change it",
        seen == digest and result.exit_code != 0,
        f"sha256 {seen[:16]}... on the node {digest[:16]}...; {result.stderr.strip() or 'it could be opened'}",
    )


def _check_environment(stage: Stage, evidence: Evidence, name: str, claim: Json) -> None:
    """The environment informs: it repeats the limit under the allocation's own key."""
    allocation = allocation_ids(claim)[0]
    environment = dict(line.split("=", 1) for line in stage.output_of(name, ["env"]).splitlines() if "=" in line)
    key = allocation_env_key(allocation)
    value = environment.get(key, "")
    evidence.check(
        "the environment names the allocation",
        f"{stage.sizes.slice_mib}Mi" in value.split() and stage.gpu_uuid in value.split(),
        f"{key}={value}" if value else f"no variable for {allocation_hash(allocation)}",
    )
    evidence.data["environment"] = environment


def check_rights(who: str, rights: Rights, evidence: Evidence) -> None:
    """A part of the driver has the rights of an installation (deploy/), and all that it did so far was within them."""
    evidence.check(
        f"{who} needed no right that deploy/ does not give it",
        bool(rights.used) and not rights.refused,
        f"refused: {rights.refused[0]}" if rights.refused else f"used: {rights.used or 'none'}",
    )


def _mounts(spec: Json) -> list[Json]:
    edits = [spec.get("containerEdits") or {}, *(device["containerEdits"] for device in spec["devices"])]
    return [mount for edit in edits for mount in edit.get("mounts") or []]


def _digest_inside(stage: Stage, name: str, path: str) -> str:
    return stage.output_of(name, ["sha256sum", path]).split()[0]


def _short(node: NodeUnderTest, path: str) -> str:
    """Leave out the temporary directory that all files of the lab share."""
    return path.replace(str(node.run_dir.parent), "<lab>")
