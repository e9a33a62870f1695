"""All evidence in one archive: for a bug report, or to show somebody who was not there."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from fracgpu.sim.lab.controller_process import LEASES
from fracgpu.sim.lab.errors import LabUnavailable
from fracgpu.sim.lab.kubectl_describe import describe
from fracgpu.sim.lab.lab import RESOURCE_API, Lab
from fracgpu.sim.node.api import Json

DESCRIPTION_FILE = "describe-resourceclaim.txt"
_COLLECTIONS = {
    "pods": "/api/v1/pods",
    "events": "/api/v1/events",
    "nodes": "/api/v1/nodes",
    "resourceclaims": f"{RESOURCE_API}/resourceclaims",
    "resourceslices": f"{RESOURCE_API}/resourceslices",
    "deviceclasses": f"{RESOURCE_API}/deviceclasses",
    "leases": LEASES,
}


def collect(lab: Lab) -> dict[str, bytes]:
    """Return the evidence by file name: API objects, CDI files, logs. To be called while the lab still runs."""
    collections = {name: lab.api.get(path) for name, path in _COLLECTIONS.items()}
    files = {f"{name}.json": _json(collection) for name, collection in collections.items()}
    files[DESCRIPTION_FILE] = _descriptions(collections["resourceclaims"]["items"], collections["events"]["items"])
    files |= {f"cdi/{path.name}": path.read_bytes() for path in sorted(lab.layout.cdi_dir.glob("*.json"))}
    files |= {log.name: log.read_bytes() for log in (lab.layout.plugin_log, lab.layout.controller_log) if log.exists()}
    files |= {f"logs/{name}": content for name, content in _container_logs(lab.layout.pods)}
    return files


def require_writable(path: Path) -> None:
    """Find out before all the work whether the archive can be written.

    Raises:
        LabUnavailable: it cannot.

    """
    existed = path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise _not_written(path, error) from error
    if not existed:
        path.unlink()


def write(path: Path, files: dict[str, bytes], result: object) -> None:
    """Write the archive, a gzipped tar with one folder.

    Raises:
        LabUnavailable: it cannot be written; half an archive is not left.

    """
    moment = int(time.time())
    try:
        with tarfile.open(path, "w:gz") as archive:
            for name, content in {**files, "result.json": _json(result)}.items():
                member = tarfile.TarInfo(f"fracgpu-lab/{name}")
                member.size, member.mode, member.mtime = len(content), 0o644, moment
                archive.addfile(member, io.BytesIO(content))
    except OSError as error:
        if path.is_file():
            path.unlink()
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> LabUnavailable:
    return LabUnavailable(f"bundle {path}", f"cannot be written: {error.strerror}", remedy="name another file")


def _container_logs(pods: Path) -> Iterator[tuple[str, bytes]]:
    for log in sorted(pods.glob("*/*/*.log")):
        yield str(log.relative_to(pods)), log.read_bytes()


def _descriptions(claims: list[Json], events: list[Json]) -> bytes:
    # Items of a list do not repeat what they are.
    whole = ({**claim, "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim"} for claim in claims)
    return "\n\n".join(describe(claim, events) for claim in whole).encode()


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, default=str).encode() + b"\n"
