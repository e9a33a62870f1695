"""`make e2e`: builds what a cluster is made of, enters a machine of its own and runs the tests there.

    python -m tests.cluster.run [--kubeconfig FILE] [PYTEST ARGUMENTS]

The machine is a set of new namespaces (network, mounts, processes, host name): everything that a node has at fixed
places is there without touching the real ones, and all of it ends with this process, however that ends. With a
kubeconfig the tests that need no node of their own run against that cluster instead, which has the driver installed.

It never skips because something is missing. What cannot be installed is an error.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from fracgpu.driver.errors import FracgpuError
from tests.cluster.build.artifacts import build
from tests.cluster.build.cache import cache_root
from tests.cluster.errors import ClusterUnavailable
from tests.cluster.foreign import foreign_cluster
from tests.cluster.machine import cgroups
from tests.cluster.machine.gpus import CARDS
from tests.cluster.machine.layout import Layout

BASE_ENV: Final = "FRACGPU_E2E_BASE"
RUN_ENV: Final = "FRACGPU_E2E_RUN"
KUBECONFIG_ENV: Final = "FRACGPU_E2E_KUBECONFIG"
ARTIFACTS_FILE: Final = "artifacts.pickle"
_TESTS: Final = ("tests/cluster/scenarios", "tests/scenarios")
_SELECTING: Final = {"--deselect", "--ignore", "--lf", "--last-failed", "--sw", "--stepwise", "--co", "--collect-only"}
_LOCK: Final = "lock"
_PREFIX: Final = "run-"


def main(arguments: Sequence[str]) -> int:
    """Run the tests; return pytest's exit status."""
    parser = argparse.ArgumentParser(prog="make e2e", description=__doc__, add_help=False)
    parser.add_argument("--kubeconfig", type=Path)
    options, pytest_arguments = parser.parse_known_args(arguments)
    try:
        if options.kubeconfig:
            return _run_against(options.kubeconfig, pytest_arguments)
        return _run_on_own_machine(pytest_arguments)
    except FracgpuError as error:
        sys.stderr.write(f"make e2e: {error}\n")
        return 1


def _run_on_own_machine(arguments: Sequence[str]) -> int:
    # All of the tier has to prove what the documentation says that it proves; a part of it need not.
    proof = [] if _selects(arguments) else ["-p", "tests.cluster.proven_edges"]
    return run_on_own_machine(_pytest([*proof, *arguments]))


def run_on_own_machine(program: Sequence[str]) -> int:
    """Build everything, enter a new machine and run `program` as its only user; return its exit status.

    The program finds the machine's directory and name in the environment (`BASE_ENV`, `RUN_ENV`).

    Raises:
        ClusterUnavailable: no root, or something could not be built.

    """
    if os.geteuid() != 0:
        raise ClusterUnavailable(
            "a node of its own", "needs root", remedy="run it as root, or name a cluster with KUBECONFIG="
        )
    began = time.monotonic()
    artifacts = build()
    built = time.monotonic()
    with _run_directory() as base:
        (base / ARTIFACTS_FILE).write_bytes(pickle.dumps(artifacts))
        layout = Layout(base)
        env = {**_environment(), BASE_ENV: str(base), RUN_ENV: base.name.removeprefix(_PREFIX)}
        command = [
            # Whatever becomes of this process, the next one goes with it, and with that the machine.
            *("setpriv", "--pdeathsig", "KILL"),
            *("unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("--propagation", "private"),
            *(sys.executable, "-m", "tests.cluster.machine.init"),
            *(str(base), env[RUN_ENV], str(len(CARDS))),
            *program,
        ]
        status = subprocess.run(command, env=env, check=False).returncode
        if status:
            _keep_logs(layout)
    minutes = [(built - began) / 60, (time.monotonic() - built) / 60]
    sys.stdout.write(f"e2e: built in {minutes[0]:.1f} min (budget 15 cold), ran in {minutes[1]:.1f} min (budget 25)\n")
    return status


def _run_against(kubeconfig: Path, arguments: Sequence[str]) -> int:
    # Found out before the first test: a cluster without the driver is one answer, not one for each test.
    with tempfile.TemporaryDirectory() as cache, foreign_cluster(kubeconfig, Path(cache)):
        pass
    env = {**_environment(), KUBECONFIG_ENV: str(kubeconfig.absolute())}
    return subprocess.run(_pytest(arguments), env=env, check=False).returncode


def _environment() -> dict[str, str]:
    """Return this process's environment without a word of where another run has its cluster."""
    return {name: value for name, value in os.environ.items() if name not in (BASE_ENV, RUN_ENV, KUBECONFIG_ENV)}


def _pytest(arguments: Sequence[str]) -> list[str]:
    """Return the command that runs the tests that are named, or else all of this tier."""
    tests = () if _names_tests(arguments) else _TESTS
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, *tests]


def _names_tests(arguments: Sequence[str]) -> bool:
    return any(Path(argument.partition("::")[0]).exists() for argument in arguments)


def _selects(arguments: Sequence[str]) -> bool:
    """Tell whether pytest's arguments leave out any test of the tier."""
    return _names_tests(arguments) or any(
        argument.startswith(("-k", "-m")) or argument.partition("=")[0] in _SELECTING for argument in arguments
    )


@contextlib.contextmanager
def _run_directory() -> Iterator[Path]:
    """Make this run's directory; first remove what killed runs have left, which is what nobody holds a lock on."""
    runs = cache_root() / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        # Until its own lock is held a new directory looks like one that was left.
        with (runs / _LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _remove_abandoned(runs)
            base = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=runs))
            fcntl.flock(held.enter_context((base / _LOCK).open("wb")), fcntl.LOCK_EX)
        held.callback(_remove, base)
        yield base


def _remove_abandoned(runs: Path) -> None:
    for left in runs.glob(f"{_PREFIX}*"):
        if _is_abandoned(left):
            _remove(left)
    # Of runs with another cache, too. One of this cache may be just about to enter those that it has made.
    alive = {path.name.removeprefix(_PREFIX) for path in runs.glob(f"{_PREFIX}*")}
    for run in cgroups.abandoned_runs() - alive:
        cgroups.remove_cgroups(cgroups.cgroup_name(run))


def _is_abandoned(base: Path) -> bool:
    try:
        with (base / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    return True


def _remove(base: Path) -> None:
    shutil.rmtree(base, ignore_errors=True)
    cgroups.remove_cgroups(cgroups.cgroup_name(base.name.removeprefix(_PREFIX)))


def _keep_logs(layout: Layout) -> None:
    kept = Path("build") / "e2e-logs"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(layout.logs, kept)
    sys.stdout.write(f"e2e: the logs of all components are in {kept}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
