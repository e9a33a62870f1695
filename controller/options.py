"""The controller's options, checked as a whole before anything is touched.

A wrong option must show at start, with the flag's name, and not at the first pod.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from fracgpu.driver.amounts import Allocator
from fracgpu.driver.log import LEVELS
from fracgpu.driver.process.command_line import Parser, check_http, check_path, not_allowed

DEFAULT_NAMESPACE: Final = "fracgpu-system"
DEFAULT_LEASE: Final = "fracgpu-controller"
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
# What may stand in an annotation and in a Lease, and is followed by a UUID there.
_IDENTITY: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_MOST_WRITERS: Final = 64
_LONGEST_LEASE_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerOptions:
    """Everything that differs from cluster to cluster, or replica to replica.

    `namespace` is the controller's own: its Lease is there. `identity` names this replica for people. `http_port` None
    means no HTTP endpoint, 0 any free port. Raises OptionInvalid, naming the flag.
    """

    allocator: Allocator = "controller"
    kubeconfig: Path | None = None
    namespace: str = DEFAULT_NAMESPACE
    lease_name: str = DEFAULT_LEASE
    identity: str = "fracgpu-controller"
    lease_seconds: int = 15
    renew_seconds: float = 10.0
    retry_seconds: float = 2.0
    orphan_seconds: float = 300.0
    writers: int = 16
    http_address: str = "0.0.0.0"  # noqa: S104 (Prometheus and the kubelet's probes come from outside of the pod)
    http_port: int | None = None
    log_level: str = "info"
    log_json: bool = False

    def __post_init__(self) -> None:
        if self.allocator not in get_args(Allocator):
            raise not_allowed("--allocator", self.allocator, "give controller or scheduler")
        check_path("--kubeconfig", self.kubeconfig)
        if not _LABEL.fullmatch(self.namespace):
            raise not_allowed("--namespace", self.namespace, "give the controller's namespace (or set POD_NAMESPACE)")
        if not _NAME.fullmatch(self.lease_name):
            raise not_allowed("--lease-name", self.lease_name, "give the name of a Lease, which need not exist")
        if not _IDENTITY.fullmatch(self.identity):
            raise not_allowed("--identity", self.identity, "give the pod's name (or set POD_NAME)")
        self._check_times()
        if isinstance(self.writers, bool) or not 1 <= self.writers <= _MOST_WRITERS:
            raise not_allowed("--writers", str(self.writers), f"give 1..{_MOST_WRITERS} threads")
        check_http(self.http_address, self.http_port)
        if self.log_level not in LEVELS:
            raise not_allowed("--log-level", self.log_level, f"give one of {', '.join(LEVELS)}")

    def _check_times(self) -> None:
        for flag, seconds in (
            ("--lease-seconds", self.lease_seconds),
            ("--renew-seconds", self.renew_seconds),
            ("--retry-seconds", self.retry_seconds),
            ("--orphan-seconds", self.orphan_seconds),
        ):
            if isinstance(seconds, bool) or not math.isfinite(seconds) or seconds <= 0:
                raise not_allowed(flag, str(seconds), "give a positive number of seconds")
        if self.lease_seconds > _LONGEST_LEASE_SECONDS:
            raise not_allowed("--lease-seconds", str(self.lease_seconds), f"give {_LONGEST_LEASE_SECONDS} at most")
        # What the election rests on: a leader has given up before another may begin, and has tried more than once.
        if self.renew_seconds >= self.lease_seconds:
            raise not_allowed("--renew-seconds", str(self.renew_seconds), "give less than --lease-seconds")
        if self.retry_seconds >= self.renew_seconds:
            raise not_allowed("--retry-seconds", str(self.retry_seconds), "give less than --renew-seconds")

    @classmethod
    def from_argv(cls, argv: Sequence[str]) -> ControllerOptions:
        """Return the options in `argv` (without the program's name).

        POD_NAMESPACE and POD_NAME of the environment stand in for --namespace and --identity. Raises OptionInvalid;
        --help prints and exits as argparse does.
        """
        return cls(**vars(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="fracgpu controller",
        description="Allocate the cluster's claims for fractions of GPUs, and explain those that wait.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    defaults = ControllerOptions()
    add = parser.add_argument
    add(
        "--allocator", default=defaults.allocator, choices=get_args(Allocator), help="who allocates this cluster's GPUs"
    )
    add("--kubeconfig", type=Path, help="kubeconfig file; without it the pod's service account is used")
    add(
        "--namespace",
        default=os.environ.get("POD_NAMESPACE") or defaults.namespace,
        help="the controller's namespace, where its Lease is",
    )
    add("--lease-name", default=defaults.lease_name, help="the Lease by which replicas agree who leads")
    add(
        "--identity",
        default=os.environ.get("POD_NAME") or socket.gethostname() or defaults.identity,
        help="name of this replica in the Lease",
    )
    add("--lease-seconds", type=int, default=defaults.lease_seconds, help="how long a silent leader still leads")
    add("--renew-seconds", type=float, default=defaults.renew_seconds, help="when a leader that can not renew gives up")
    add("--retry-seconds", type=float, default=defaults.retry_seconds, help="how often the Lease is looked at")
    add(
        "--orphan-seconds",
        type=float,
        default=defaults.orphan_seconds,
        help="after how long an allocation that nobody uses is taken back",
    )
    add("--writers", type=int, default=defaults.writers, help="how many requests are made at once")
    add("--http-address", default=defaults.http_address, help="address of the HTTP endpoint")
    add("--http-port", type=int, help="port of metrics and health checks, 0 for any; without it there is no endpoint")
    add("--log-level", default=defaults.log_level, choices=LEVELS, help="least severity that is logged")
    add("--log-json", action="store_true", help="log JSON objects instead of key=value lines")
    return parser
