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
from typing import Any, Final, get_args

from fracgpu.driver.amounts import Allocator
from fracgpu.driver.errors import ConfigInvalid, OptionInvalid
from fracgpu.driver.gpu import parse_scale, scaled_cores
from fracgpu.driver.log import LEVELS
from fracgpu.driver.names import DEFAULT_SLOTS_PER_GPU, DRIVER_NAME
from fracgpu.driver.process.command_line import Parser, check_http, check_path, not_allowed
from fracgpu.kubeletplugin.kubelet_root import DEFAULT_KUBELET_ROOT, find_kubelet_root

AUTO: Final = "auto"
_NODE_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_MAX_NODE_NAME: Final = 253
# A ResourceSlice capacity is an int64; nobody shares a GPU by more.
_MAX_SLOTS: Final = 1024
# A UUID, or the hash that static pods have.
_POD_UID: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,126}[A-Za-z0-9])?")
_WRITTEN: Final = ("plugin_dir", "registry_dir", "cdi_dir", "state_dir", "run_dir")


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginOptions:
    """Everything that differs from node to node or cluster to cluster.

    Directories are absolute. `host_root` is the host's root as this process sees it. `driver_root` is as this process
    sees it; `host_driver_root` is what the container runtime calls it, where the plugin runs in a container that has it
    mounted elsewhere. With `find_driver_root` both are only a first guess: gpus.node_driver looks for the driver below
    `host_root` each time. `dev_root`, `kubelet_root`, `plugin_dir`, `registry_dir`, `cdi_dir`,
    `state_dir` and `run_dir` must have one path on the host and here. `pod_uid` is empty where plugins never overlap.
    `http_port` None means no HTTP endpoint, 0 any free port.
    Scales are at least 1. Raises OptionInvalid, naming the flag.
    """

    node_name: str
    pod_uid: str = ""
    kubeconfig: Path | None = None
    allocator: Allocator = "controller"
    host_root: Path = Path("/")
    find_driver_root: bool = False
    driver_root: Path = Path("/")
    host_driver_root: Path | None = None
    dev_root: Path = Path("/")
    kubelet_root: Path = DEFAULT_KUBELET_ROOT
    plugin_dir: Path = DEFAULT_KUBELET_ROOT / "plugins" / DRIVER_NAME
    registry_dir: Path = DEFAULT_KUBELET_ROOT / "plugins_registry"
    cdi_dir: Path = Path("/var/run/cdi")
    state_dir: Path = Path("/var/lib/fracgpu")
    run_dir: Path = Path("/run/fracgpu")
    memory_scale: Decimal = Decimal(1)
    cores_scale: Decimal = Decimal(1)
    slots: int = DEFAULT_SLOTS_PER_GPU
    http_address: str = "0.0.0.0"  # noqa: S104 (Prometheus and the kubelet's probes come from outside of the pod)
    http_port: int | None = None
    log_level: str = "info"
    log_json: bool = False

    def __post_init__(self) -> None:
        if len(self.node_name) > _MAX_NODE_NAME or not _NODE_NAME.fullmatch(self.node_name):
            raise not_allowed(
                "--node-name", self.node_name, "give the name of this node's Node object (or set NODE_NAME)"
            )
        if self.pod_uid and not _POD_UID.fullmatch(self.pod_uid):
            raise not_allowed("--pod-uid", self.pod_uid, "give metadata.uid of this pod (or set POD_UID), or nothing")
        if self.allocator not in get_args(Allocator):
            raise not_allowed("--allocator", self.allocator, "give controller or scheduler")
        if self.find_driver_root and self.host_driver_root is not None:
            remedy = "give --driver-root as well, or leave both out"
            raise not_allowed("--host-driver-root", str(self.host_driver_root), remedy)
        for flag, path in self._paths():
            check_path(flag, path)
        for flag, scale in (("--memory-scale", self.memory_scale), ("--cores-scale", self.cores_scale)):
            _check_scale(flag, scale)
        if isinstance(self.slots, bool) or not 1 <= self.slots <= _MAX_SLOTS:
            raise not_allowed("--slots", str(self.slots), f"give 1..{_MAX_SLOTS} sharers of one GPU")
        check_http(self.http_address, self.http_port)
        if self.log_level not in LEVELS:
            raise not_allowed("--log-level", self.log_level, f"give one of {', '.join(LEVELS)}")

    @classmethod
    def from_argv(cls, argv: Sequence[str]) -> "PluginOptions":
        """Return the options in `argv` (without the program's name).

        NODE_NAME and POD_UID of the environment stand in for --node-name and --pod-uid. Where the kubelet's directories
        are not given, they are looked for below --host-root. Raises OptionInvalid; --help prints and exits as argparse
        does.
        """
        given = vars(_parser().parse_args(argv))
        if given["driver_root"] == Path(AUTO):
            given |= {"find_driver_root": True, "driver_root": given["host_root"]}
        return cls(**_with_kubelet_root(given))

    @property
    def driver_root_on_host(self) -> Path:
        """The driver root as the container runtime calls it."""
        return self.driver_root if self.host_driver_root is None else self.host_driver_root

    def _paths(self) -> tuple[tuple[str, Path | None], ...]:
        return (
            ("--kubeconfig", self.kubeconfig),
            ("--host-root", self.host_root),
            ("--driver-root", self.driver_root),
            ("--host-driver-root", self.host_driver_root),
            ("--dev-root", self.dev_root),
            ("--kubelet-root", self.kubelet_root),
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


def _with_kubelet_root(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with the kubelet's directories filled in: those given, else those that this node has."""
    root = given["kubelet_root"] or find_kubelet_root(given["host_root"])
    return given | {
        "kubelet_root": root,
        "plugin_dir": given["plugin_dir"] or root / "plugins" / DRIVER_NAME,
        "registry_dir": given["registry_dir"] or root / "plugins_registry",
    }


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a decimal number") from error


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="fracgpu kubeletplugin",
        description="Publish this node's GPUs and prepare ResourceClaims for the kubelet.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    defaults = PluginOptions(node_name="default")
    add = parser.add_argument
    add("--node-name", default=os.environ.get("NODE_NAME", ""), help="name of this node's Node object")
    add(
        "--pod-uid",
        default=os.environ.get("POD_UID", ""),
        help="uid of this pod; gives it sockets of its own, so that two plugins may overlap in a rolling update",
    )
    add("--kubeconfig", type=Path, help="kubeconfig file; without it the pod's service account is used")
    add(
        "--allocator", default=defaults.allocator, choices=get_args(Allocator), help="who allocates this cluster's GPUs"
    )
    for name, text in _DIRECTORY_HELP.items():
        add(_flag(name), type=Path, default=_DIRECTORY_DEFAULTS.get(name, getattr(defaults, name)), help=text)
    add("--memory-scale", type=_decimal, default=defaults.memory_scale, help="memory overcommit of each GPU")
    add("--cores-scale", type=_decimal, default=defaults.cores_scale, help="cores overcommit of each GPU")
    add("--slots", type=int, default=defaults.slots, help="how many claims may share one GPU")
    add("--http-address", default=defaults.http_address, help="address of the HTTP endpoint")
    add("--http-port", type=int, help="port of metrics and health checks, 0 for any; without it there is no endpoint")
    add("--log-level", default=defaults.log_level, choices=LEVELS, help="least severity that is logged")
    add("--log-json", action="store_true", help="log JSON objects instead of key=value lines")
    return parser


# Found on the node rather than fixed: None stands for that, where a text can not.
_DIRECTORY_DEFAULTS: Final[dict[str, Path | None]] = {
    "driver_root": Path(AUTO),
    "kubelet_root": None,
    "plugin_dir": None,
    "registry_dir": None,
}
_DIRECTORY_HELP: Final = {
    "host_root": "the host's root directory, as the plugin sees it",
    "driver_root": f"root directory of the NVIDIA driver, as the plugin sees it; {AUTO} looks in the usual places",
    "host_driver_root": "the same directory as the container runtime sees it; default: the same path",
    "dev_root": "directory whose dev/ has the NVIDIA device nodes, as the container runtime sees it too",
    "kubelet_root": "the kubelet's root directory; default: the one that this node has",
    "plugin_dir": f"directory of the DRA socket; default: plugins/{DRIVER_NAME} below the kubelet's root",
    "registry_dir": "the kubelet's plugin registry; default: plugins_registry below the kubelet's root",
    "cdi_dir": "where CDI spec files go",
    "state_dir": "checkpoint and interceptor; survives reboots",
    "run_dir": "config pages and state files; may be a tmpfs",
}
