"""From a claim to what the plugin made of it on the node."""

from __future__ import annotations

from pathlib import Path

from fracgpu.driver.names import DRIVER_NAME, allocation_id
from fracgpu.sim.lab.errors import CommandFailed
from fracgpu.sim.node.api import Json


def allocation_ids(claim: Json) -> list[str]:
    """Return the allocation ids of this driver's results in a claim."""
    results = claim["status"]["allocation"]["devices"]["results"]
    return [
        allocation_id(claim["metadata"]["uid"], result["request"], result["device"], result.get("shareID"), ordinal)
        for ordinal, result in enumerate(results)
        if result["driver"] == DRIVER_NAME
    ]


def allocation_directory(run_dir: Path, claim: Json) -> Path:
    """Return the directory of config page and state file of a claim with one result."""
    return run_dir / "allocations" / allocation_ids(claim)[0]


def cdi_file(cdi_dir: Path, claim: Json) -> Path:
    """Return the CDI spec file of a claim.

    Raises:
        CommandFailed: there is none, or more than one.

    """
    found = [path for path in cdi_dir.glob("*.json") if claim["metadata"]["uid"] in path.name]
    if len(found) != 1:
        subject = f"claim {claim['metadata']['name']}"
        what = f"{len(found)} CDI spec files in {cdi_dir} carry its uid, expected one"
        raise CommandFailed(subject, what, remedy="see the log of the plugin")
    return found[0]
