"""The kubelet's side of a node, and what our plugin has left on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fracgpu.cli.doctor.finding import Finding, fail, failed, info, ok, warn
from fracgpu.cli.doctor.host import Host
from fracgpu.driver.names import DRIVER_NAME
from fracgpu.kubeletplugin.errors import CheckpointInvalid
from fracgpu.kubeletplugin.prepare.checkpoint import CheckpointStore
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.kubeletplugin.prepare.preparer import CHECKPOINT_FILE, LIBRARY_DIRECTORY
from fracgpu.native.errors import NativeLibrariesMissing
from fracgpu.native.libraries import library_digest

STATE_DIRECTORY = Path("/var/lib/fracgpu")
_REGISTRY = "plugins_registry"


def check_privileges(host: Host) -> Iterator[Finding]:
    """What this process may not look into is no evidence that nothing is there."""
    places = (host.kubelet_root, STATE_DIRECTORY, Path("/etc/containerd"))
    hidden = [str(place) for place in places if host.is_hidden(place)]
    if hidden:
        what = f"{', '.join(hidden)} can not be looked into by this user"
        yield warn("privileges", what, "run fracgpu doctor as root; what it says about them is not the whole truth")


def check_kubelet(host: Host) -> Iterator[Finding]:
    """A kubelet that takes plugins lives here."""
    root = host.kubelet_root
    if host.path(root) is None:
        yield info("kubelet", f"{root} is not there: no Kubernetes node, or --kubelet-root is needed")
    elif host.path(root / _REGISTRY) is None:
        yield fail("kubelet", f"{root / _REGISTRY} is not there", "give --kubelet-root, or start the kubelet once")
    else:
        yield ok("kubelet", f"{root}")


def check_sockets(host: Host) -> Iterator[Finding]:
    """Our plugin's two sockets: somebody answers, or they were left behind."""
    places = (
        ("plugin socket", host.kubelet_root / "plugins" / DRIVER_NAME, "*.sock"),
        ("registration", host.kubelet_root / _REGISTRY, f"{DRIVER_NAME}*.sock"),
    )
    for check, directory, pattern in places:
        sockets = host.entries(directory, pattern)
        living = [path for path in sockets if host.answers(path)]
        if living:
            yield ok(check, f"{len(living)} answering in {directory}")
        elif sockets:
            remedy = "start the plugin, which takes their place; after uninstalling, delete them"
            yield warn(check, f"{', '.join(path.name for path in sockets)}: nobody answers", remedy)
        else:
            yield info(check, f"none in {directory}: the plugin does not run here")


def check_checkpoint(host: Host) -> Iterator[Finding]:
    """What is prepared on this node can be read."""
    place = host.path(STATE_DIRECTORY / CHECKPOINT_FILE)
    if place is None:
        yield info("checkpoint", f"none in {STATE_DIRECTORY}: nothing was ever prepared here")
        return
    if not place.is_file():
        what = f"{STATE_DIRECTORY / CHECKPOINT_FILE} is no regular file"
        yield fail("checkpoint", what, "move it away and restart the plugin")
        return
    try:
        claims = CheckpointStore(place, Files()).load().entries
    except CheckpointInvalid as error:
        yield failed("checkpoint", error)
        return
    yield ok("checkpoint", f"{len(claims)} claim(s)")


def check_stored_interceptors(host: Host) -> Iterator[Finding]:
    """Each stored interceptor has the content that its directory's name promises: containers have it mounted."""
    stored = [path for path in host.entries(STATE_DIRECTORY / LIBRARY_DIRECTORY) if not path.name.startswith(".")]
    if not stored:
        yield info("stored interceptors", "none: the plugin has not run here")
        return
    damaged = [path for path in stored if not _is_whole(path)]
    for path in damaged:
        remedy = "drain this node and remove that directory; the plugin makes it anew when it starts"
        yield fail("stored interceptors", f"{STATE_DIRECTORY / LIBRARY_DIRECTORY / path.name} is damaged", remedy)
    if not damaged:
        yield ok("stored interceptors", f"{len(stored)}, whole")


def _is_whole(directory: Path) -> bool:
    try:
        files = tuple(directory.iterdir())
        # Never a pipe or a link: the first is never read to its end, the second may lead anywhere.
        regular = all(path.is_file() and not path.is_symlink() for path in files)
        return regular and library_digest(files) == directory.name
    except (NativeLibrariesMissing, OSError):
        return False
