"""The controller as a process: it allocates, explains, is asked for its health, hands over, and ends cleanly."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fracgpu.controller.main import main
from fracgpu.controller.options import ControllerOptions
from fracgpu.controller.service import ControllerService
from fracgpu.sim.api.server import ApiServer
from tests.controller.service.setting import (
    CLAIMS,
    GENEROUS_SECONDS,
    NAMESPACE,
    Controller,
    Setting,
    shipped_access,
    until,
)

QUICK = ("--lease-seconds=3", "--renew-seconds=2", "--retry-seconds=0.3")
Launch = Callable[..., Controller]


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer(access=shipped_access()) as running:
        yield running


@pytest.fixture
def kubeconfig(server: ApiServer, tmp_path: Path) -> Path:
    return server.write_kubeconfig(tmp_path / "kubeconfig")


@pytest.fixture
def setting(server: ApiServer) -> Setting:
    return Setting(server)


@pytest.fixture
def launch(kubeconfig: Path, tmp_path: Path) -> Iterator[Launch]:
    with ExitStack() as running:

        def begin(identity: str = "pod-a", *arguments: str) -> Controller:
            log = tmp_path / f"{identity}.log"
            one = Controller(kubeconfig, log, *QUICK, *arguments, identity=identity)
            running.callback(one.stop, signal.SIGKILL)
            return one

        yield begin


def test_a_claim_is_allocated_told_and_measured_and_the_end_is_clean(setting: Setting, launch: Launch) -> None:
    setting.ask("small", "4Gi")
    controller = launch()
    allocation = until(lambda: setting.allocation("small"), "an allocation")
    (result,) = allocation["devices"]["results"]
    assert (result["pool"], result["consumedCapacity"]["memory"]) == ("n1", "4Gi")
    setting.ask("large", "8Gi")
    refused = until(lambda: setting.events("large").get(("Pod", "ClaimUnschedulable")), "an explanation")
    assert "CardInsufficientMemory" in refused
    assert setting.events("large")["ResourceClaim", "ClaimUnschedulable"] == refused
    told = until(lambda: setting.events("small").get(("ResourceClaim", "ClaimAllocated")), "an event")
    assert "4Gi" in told
    assert setting.holder.startswith("pod-a_")

    code, body = controller.ask("/healthz")
    checks = json.loads(body)["checks"]
    assert code == 200, body
    assert {"allocator", "election", "events", "watch pods", "watch fractionquotas"} <= set(checks)
    assert controller.ask("/readyz") == (200, '{"status": "ok", "checks": {"synced": "ok"}}\n')
    shown = controller.ask("/metrics")[1]
    for line in (
        'fracgpu_allocator_writes_total{kind="allocation",outcome="written"} 1.0',
        'fracgpu_allocator_decision_duration_seconds_count{outcome="placed"} 1.0',
        "fracgpu_allocator_leader 1.0",
        "fracgpu_allocator_pending 1.0",
        'fracgpu_allocator_watch_silence_seconds{resource="pods"}',
    ):
        assert line in shown
    assert controller.stop() == 0
    assert setting.holder == ""
    lines = controller.lines()
    assert [line["msg"] for line in lines if line["level"] in ("warning", "error")] == []
    assert lines[-1]["msg"] == "controller stopped"


def test_the_other_replica_goes_on_when_one_is_killed(setting: Setting, launch: Launch) -> None:
    first = launch("pod-a")
    until(lambda: setting.holder.startswith("pod-a_"), "the first leader")
    second = launch("pod-b")
    until(lambda: second.ask("/readyz")[0] == 200, "readiness")
    setting.ask("one", "4Gi")
    until(lambda: setting.allocation("one"), "the first allocation")
    first.stop(signal.SIGKILL)
    setting.ask("two", "4Gi")
    until(lambda: setting.allocation("two"), "the second allocation")
    assert setting.holder.startswith("pod-b_")
    # What the first gave away still counts.
    setting.ask("three", "4Gi")
    until(lambda: setting.events("three").get(("Pod", "ClaimUnschedulable")), "an explanation")
    assert not setting.allocation("three")
    assert second.stop() == 0


def test_the_other_replica_goes_on_at_once_when_one_stops(setting: Setting, launch: Launch) -> None:
    first = launch("pod-a", "--lease-seconds=3600", "--renew-seconds=3000")
    until(lambda: setting.holder.startswith("pod-a_"), "the first leader")
    second = launch("pod-b", "--lease-seconds=3600", "--renew-seconds=3000")
    until(lambda: second.ask("/readyz")[0] == 200, "readiness")
    assert first.stop() == 0
    until(lambda: setting.holder.startswith("pod-b_"), "the second leader")


def test_in_scheduler_mode_it_only_explains(setting: Setting, launch: Launch) -> None:
    controller = launch("pod-a", "--allocator=scheduler")
    setting.ask("large", "99Gi")
    told = until(lambda: setting.events("large").get(("Pod", "ClaimUnschedulable")), "an explanation")
    assert told
    assert not setting.allocation("large")
    assert "finalizers" not in setting.get(f"{CLAIMS}/large")["metadata"]
    assert controller.stop() == 0


def test_wrong_options_end_with_a_status_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--renew-seconds=99"]) == 2
    assert capsys.readouterr().err.startswith("fracgpu controller: --renew-seconds: '99.0' is not allowed;")


def test_a_kubeconfig_that_is_not_there_ends_with_one_line(tmp_path: Path) -> None:
    controller = Controller(tmp_path / "none", tmp_path / "log")
    assert controller.process.wait(GENEROUS_SECONDS) == 1
    (line,) = controller.lines()
    assert line["msg"] == "controller stopped"
    assert "--kubeconfig" in line["error"]


def options(kubeconfig: Path) -> ControllerOptions:
    return ControllerOptions(
        kubeconfig=kubeconfig, namespace=NAMESPACE, lease_seconds=3, renew_seconds=2, retry_seconds=0.3
    )


def test_nobody_stands_for_election_who_can_not_see(
    setting: Setting, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fracgpu.controller.watch.informers.Informers.wait_synced", lambda *_: False)
    service = ControllerService(options(kubeconfig), on_failure=lambda: None)
    service.start()
    try:
        assert service.leadership.wait(1.5) is None
        assert setting.holder == ""
    finally:
        service.stop()


def test_a_part_that_ends_ends_the_process(setting: Setting, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that leads but allocates nothing would be worse than none."""

    def fail(*_: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr("fracgpu.controller.allocator.allocator.Allocator.run", fail)
    failures: list[bool] = []
    service = ControllerService(options(kubeconfig), on_failure=lambda: failures.append(True))
    service.start()
    try:
        until(lambda: failures, "a failure")
    finally:
        service.stop()
    assert setting.holder == ""
    assert len(failures) == 1


def test_stopping_right_after_the_start_does_not_hang(kubeconfig: Path, setting: Setting) -> None:
    for _ in range(5):
        service = ControllerService(options(kubeconfig), on_failure=lambda: None)
        service.start()
        service.stop()
    assert setting.holder == ""
