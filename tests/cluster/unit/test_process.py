"""A component that does not start says why, and none outlives its stop."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.cluster.components.process import Component
from tests.cluster.errors import ClusterUnavailable

STUBBORN = (
    "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
)


def component(tmp_path: Path, program: str, *, start_s: float = 20.0, stop_s: float = 20.0) -> Component:
    mark = tmp_path / "ready"
    argv: list[str | Path] = [sys.executable, "-c", program, mark]
    return Component(
        "server", argv, log=tmp_path / "logs" / "server.log", ready=mark.exists, start_s=start_s, stop_s=stop_s
    )


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_runs_from_start_to_stop_and_again(tmp_path: Path) -> None:
    server = component(tmp_path, "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)")

    server.start()
    first = server.pid
    server.stop()
    assert first is not None
    assert not is_alive(first)

    server.start()
    second = server.pid
    server.stop()
    assert second not in (None, first)


def test_one_that_ends_at_once_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    server = component(tmp_path, "import sys; sys.exit('no such port')")

    with pytest.raises(ClusterUnavailable, match=r"(?s)server: ended with 1.*no such port"):
        server.start()


def test_one_that_never_gets_ready_is_reported(tmp_path: Path) -> None:
    server = component(tmp_path, "import time; time.sleep(60)", start_s=0.3)

    with pytest.raises(ClusterUnavailable, match=r"is not ready after 0\.3 s"):
        server.start()

    server.stop()


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    server = component(tmp_path, STUBBORN, stop_s=0.2)
    server.start()
    pid = server.pid
    assert pid is not None

    server.stop()

    assert not is_alive(pid)


def test_stopping_what_does_not_run_is_harmless(tmp_path: Path) -> None:
    component(tmp_path, "").stop()
