"""Processes of the host, as a proc directory shows them."""

from typing import Any


def process(world: Any, pid: int, *mounts: str) -> None:
    """A process of the host with these mountinfo lines."""
    directory = world.root / "proc" / str(pid)
    directory.mkdir(parents=True)
    (directory / "mountinfo").write_text("".join(f"{line}\n" for line in mounts))


def mount(ref: Any, name: str = "state") -> str:
    place = f"allocations/{ref.uid}-gpu-gpu-11111111-0/{name}"
    return f"981 950 0:25 /fracgpu/{place} /run/fracgpu/{place} rw,nosuid,nodev,noexec - tmpfs tmpfs rw"
