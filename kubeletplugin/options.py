"""The plugin's options, checked as a whole before anything is touched.

A wrong option must show at start, with the flag's name, and not at the first pod.
"""

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final, NoReturn, get_args

from fracgpu.driver.amounts import Allocator
from fracgpu.driver.errors import ConfigInvalid
from fracgpu.driver.gpu import parse_scale, scaled_cores
from fracgpu.driver.log import LEVELS
from fracgpu.driver.names import DEFAULT_SLOTS_PER_GPU, DRIVER_NAME
from fracgpu.kubeletplugin.errors import OptionInvalid

_NODE_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_MAX_NODE_NAME: Final = 253
# A ResourceSlice capacity is an int64; nobody shares a GPU by more.
_MAX_SLOTS: Final = 1024
_WRITTEN: Final = ("plugin_dir", "registry_dir", "cdi_dir", "state_dir", "run_dir")


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginOptions:
    """Everything that differs from node to node or cluster to cluster.

    Directories are absolute. `driver_root` is as this process sees it; `host_driver_root` is what the container
    runtime calls it, where the plugin runs in a container that has it mounted elsewhere. `dev_root`, `plugin_dir`,
    `registry_dir`, `cdi_dir`, `state_dir` and `run_dir` must have one path on the host and here.
    Scales are at least 1. Raises OptionInvalid, naming the flag.
    """

    node_name: str
    kubeconfig: Path | None = None
    allocator: Allocator = "controller"
    driver_root: Path = Path("/")
    host_driver_root: Path | None = None
    dev_root: Path = Path("/")
    plugin_dir: Path = Path("/var/lib/kubelet/plugins") / DRIVER_NAME
    registry_dir: Path = Path("/var/lib/kubelet/plugins_registry")
    cdi_dir: Path = Path("/var/run/cdi")
    state_dir: Path = Path("/var/lib/fracgpu")
    run_dir: Path = Path("/run/fracgpu")
    memory_scale: Decimal = Decimal(1)
    cores_scale: Decimal = Decimal(1)
    slots: int = DEFAULT_SLOTS_PER_GPU
    log_level: str = "info"
    log_json: bool = False

    def __post_init__(self) -> None:
        if len(self.node_name) > _MAX_NODE_NAME or not _NODE_NAME.fullmatch(self.node_name):
            raise _invalid("--node-name", self.node_name, "give the name of this node's Node object (or set NODE_NAME)")
        if self.allocator not in get_args(Allocator):
            raise _invalid("--allocator", self.allocator, "give controller or scheduler")
        for flag, path in self._paths():
            if path is not None and not (path.is_absolute() and ".." not in path.parts):
                raise _invalid(flag, str(path), "give an absolute path without ..")
        for flag, scale in (("--memory-scale", self.memory_scale), ("--cores-scale", self.cores_scale)):
            _check_scale(flag, scale)
        if isinstance(self.slots, bool) or not 1 <= self.slots <= _MAX_SLOTS:
            raise _invalid("--slots", str(self.slots), f"give 1..{_MAX_SLOTS} sharers of one GPU")
        if self.log_level not in LEVELS:
            raise _invalid("--log-level", self.log_level, f"give one of {', '.join(LEVELS)}")

    @classmethod
    def from_argv(cls, argv: Sequence[str]) -> "PluginOptions":
        """Return the options in `argv` (without the program's name); NODE_NAME stands in for --node-name.

        Raises OptionInvalid; --help prints and exits as argparse does.
        """
        return cls(**vars(_parser().parse_args(argv)))

    @property
    def driver_root_on_host(self) -> Path:
        """The driver root as the container runtime calls it."""
        return self.driver_root if self.host_driver_root is None else self.host_driver_root

    def _paths(self) -> tuple[tuple[str, Path | None], ...]:
        return (
            ("--kubeconfig", self.kubeconfig),
            ("--driver-root", self.driver_root),
            ("--host-driver-root", self.host_driver_root),
            ("--dev-root", self.dev_root),
            ("--plugin-dir", self.plugin_dir),
            ("--registry-dir", self.registry_dir),
            ("--cdi-dir", self.cdi_dir),
            ("--state-dir", self.state_dir),
            ("--run-dir", self.run_dir),
        )


def check_directories(options: PluginOptions) -> None:
    """Raise OptionInvalid, naming the flag, for a directory that can be neither written to nor made.

    Nothing is created. Without this a CDI directory that is mounted read-only would show at the first pod.
    """
    for name in _WRITTEN:
        path: Path = getattr(options, name)
        nearest = next(place for place in (path, *path.parents) if place.exists())
        if not nearest.is_dir():
            raise OptionInvalid(_flag(name), f"{nearest} is no directory", remedy="move it away or give another place")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise OptionInvalid(_flag(name), f"{nearest} can not be written to", remedy="mount it writable here")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_scale(flag: str, scale: Decimal) -> None:
    try:
        parse_scale(scale, name=flag)
        if flag == "--cores-scale":
            scaled_cores(scale)
    except ConfigInvalid as error:
        raise OptionInvalid(flag, error.what, remedy=error.remedy) from error


def _invalid(flag: str, value: str, remedy: str) -> OptionInvalid:
    return OptionInvalid(flag, f"{value!r} is not allowed", remedy=remedy)


class _Parser(argparse.ArgumentParser):
    """Raises OptionInvalid where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        flag, _, what = message.partition(": ")
        flag = flag.removeprefix("argument ")
        if not flag.startswith("-"):
            flag, what = "command line", message
        raise OptionInvalid(flag, what, remedy="see --help")


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a decimal number") from error


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fracgpu kubeletplugin",
        description="Publish this node's GPUs and prepare ResourceClaims for the kubelet.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    defaults = PluginOptions(node_name="default")
    add = parser.add_argument
    add("--node-name", default=os.environ.get("NODE_NAME", ""), help="name of this node's Node object")
    add("--kubeconfig", type=Path, help="kubeconfig file; without it the pod's service account is used")
    add(
        "--allocator", default=defaults.allocator, choices=get_args(Allocator), help="who allocates this cluster's GPUs"
    )
    for name, text in _DIRECTORY_HELP.items():
        default = getattr(defaults, name)
        add(_flag(name), type=Path, default=default, help=text)
    add("--memory-scale", type=_decimal, default=defaults.memory_scale, help="memory overcommit of each GPU")
    add("--cores-scale", type=_decimal, default=defaults.cores_scale, help="cores overcommit of each GPU")
    add("--slots", type=int, default=defaults.slots, help="how many claims may share one GPU")
    add("--log-level", default=defaults.log_level, choices=LEVELS, help="least severity that is logged")
    add("--log-json", action="store_true", help="log JSON objects instead of key=value lines")
    return parser


_DIRECTORY_HELP: Final = {
    "driver_root": "root directory of the NVIDIA driver, as the plugin sees it",
    "host_driver_root": "the same directory as the container runtime sees it; default: the same path",
    "dev_root": "directory whose dev/ has the NVIDIA device nodes, as the container runtime sees it too",
    "plugin_dir": "directory of the DRA socket",
    "registry_dir": "the kubelet's plugin registry",
    "cdi_dir": "where CDI spec files go",
    "state_dir": "checkpoint and interceptor; survives reboots",
    "run_dir": "config pages and state files; may be a tmpfs",
}
