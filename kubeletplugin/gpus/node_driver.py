"""The NVIDIA driver of this node, read anew each time.

A driver may be installed after the plugin started, by a container of its own and at another root than before, or be
replaced while the plugin runs. So nothing about it is decided at start: whoever needs it reads it here.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fracgpu.cdi.discovery import DriverFiles, list_device_nodes
from fracgpu.cdi.driver_cache import DriverCache
from fracgpu.cdi.errors import DriverAbsent
from fracgpu.kubeletplugin.options import PluginOptions

_SAME_AS_HOST: Final = Path("/")
# Never another answer than a new search, see there; a search costs milliseconds of every Prepare.
_DRIVERS: Final = DriverCache()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDriver:
    """One look at the driver.

    `options` are the plugin's with the roots of this driver filled in, `device_nodes` the NVIDIA device nodes as paths
    in a container (`/dev/nvidia0`).
    """

    options: PluginOptions
    files: DriverFiles
    device_nodes: frozenset[str]


def read_driver(options: PluginOptions) -> NodeDriver:
    """Return the driver below --driver-root, or that of the host if the plugin is to find it.

    Raises DriverAbsent, DriverFilesMissing or ElfInvalid (fracgpu.cdi.errors), with what to install or correct.
    """
    if not options.find_driver_root:
        return NodeDriver(
            options=options,
            files=_DRIVERS.discover(options.driver_root),
            device_nodes=list_device_nodes(options.dev_root),
        )
    found = _DRIVERS.find(options.host_root)
    if found is None:
        raise DriverAbsent(
            f"host root {options.host_root}",
            "has no NVIDIA driver in any usual place",
            remedy="install the NVIDIA driver on this node, or say where it is with --driver-root",
        )
    chosen = options.dev_root != _SAME_AS_HOST
    return NodeDriver(
        options=replace(
            options,
            find_driver_root=False,
            driver_root=found.path,
            host_driver_root=found.on_host,
            dev_root=options.dev_root if chosen else found.dev_root_on_host,
        ),
        files=_DRIVERS.discover(found.path),
        device_nodes=list_device_nodes(options.dev_root if chosen else found.dev_root),
    )
