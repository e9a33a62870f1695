"""The shipped kubelet plugin as a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fracgpu.native.fake_gpu import MACHINE_ENV
from fracgpu.sim.lab.driver_process import DriverProcess
from fracgpu.sim.lab.layout import Layout
from fracgpu.sim.lab.options import LabOptions


class PluginProcess(DriverProcess):
    """A running ``fracgpu kubeletplugin``."""

    def __init__(self, arguments: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        super().__init__("kubelet plugin", "kubeletplugin", arguments, env=env, log=log)


def plugin_of(layout: Layout, options: LabOptions) -> PluginProcess:
    """Return the plugin of a lab, not started yet."""
    return PluginProcess(plugin_arguments(layout, options), env=plugin_env(layout), log=layout.plugin_log)


def plugin_arguments(layout: Layout, options: LabOptions) -> list[str]:
    """Return the plugin's command line."""
    return [
        f"--node-name={options.node_name}",
        f"--kubeconfig={layout.plugin_kubeconfig}",
        f"--allocator={options.allocator}",
        f"--driver-root={layout.driver_root}",
        f"--dev-root={layout.driver_root}",
        f"--plugin-dir={layout.plugin_dir}",
        f"--registry-dir={layout.registry_dir}",
        f"--cdi-dir={layout.cdi_dir}",
        f"--state-dir={layout.state_dir}",
        f"--run-dir={layout.run_dir}",
        f"--log-level={options.log_level}",
    ]


def plugin_env(layout: Layout) -> dict[str, str]:
    """Return what the plugin needs in its environment."""
    return {MACHINE_ENV: str(layout.machine)}
