"""Options are refused at start, by the flag's name."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from fracgpu.controller.options import ControllerOptions
from fracgpu.driver.errors import OptionInvalid


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POD_NAMESPACE", raising=False)
    monkeypatch.setenv("POD_NAME", "fracgpu-controller-x1")
    assert ControllerOptions.from_argv([]) == ControllerOptions(
        allocator="controller",
        kubeconfig=None,
        namespace="fracgpu-system",
        lease_name="fracgpu-controller",
        identity="fracgpu-controller-x1",
        lease_seconds=15,
        renew_seconds=10.0,
        retry_seconds=2.0,
        orphan_seconds=300.0,
        writers=16,
        http_address="0.0.0.0",
        http_port=None,
        log_level="info",
        log_json=False,
    )


def test_every_option_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAMESPACE", "elsewhere")
    argv = [
        "--allocator=scheduler",
        "--kubeconfig=/k",
        "--lease-name=l",
        "--identity=me",
        "--lease-seconds=30",
        "--renew-seconds=20.5",
        "--retry-seconds=3",
        "--orphan-seconds=60",
        "--writers=4",
        "--http-address=::1",
        "--http-port=0",
        "--log-level=debug",
        "--log-json",
    ]
    taken = ControllerOptions.from_argv(argv)
    assert taken == ControllerOptions(
        allocator="scheduler",
        kubeconfig=Path("/k"),
        namespace="elsewhere",
        lease_name="l",
        identity="me",
        lease_seconds=30,
        renew_seconds=20.5,
        retry_seconds=3.0,
        orphan_seconds=60.0,
        writers=4,
        http_address="::1",
        http_port=0,
        log_level="debug",
        log_json=True,
    )
    defaults = ControllerOptions()
    assert all(getattr(taken, field.name) != getattr(defaults, field.name) for field in fields(taken))
    assert ControllerOptions.from_argv(["--namespace=mine"]).namespace == "mine"


@pytest.mark.parametrize(
    ("argument", "flag"),
    [
        ("--allocator=nobody", "--allocator"),
        ("--kubeconfig=k", "--kubeconfig"),
        ("--namespace=a.b", "--namespace"),
        ("--lease-name=A", "--lease-name"),
        ("--identity=a/b", "--identity"),
        ("--lease-seconds=0", "--lease-seconds"),
        ("--lease-seconds=9999", "--lease-seconds"),
        ("--renew-seconds=nan", "--renew-seconds"),
        ("--renew-seconds=15", "--renew-seconds"),
        ("--retry-seconds=10", "--retry-seconds"),
        ("--retry-seconds=-1", "--retry-seconds"),
        ("--orphan-seconds=0", "--orphan-seconds"),
        ("--writers=0", "--writers"),
        ("--writers=65", "--writers"),
        ("--writers=x", "--writers"),
        ("--http-address=h", "--http-address"),
        ("--http-port=65536", "--http-port"),
        ("--log-level=loud", "--log-level"),
        ("--orphan=1", "command line"),
    ],
)
def test_what_can_not_work_is_refused(argument: str, flag: str) -> None:
    with pytest.raises(OptionInvalid) as wrong:
        ControllerOptions.from_argv([argument])
    assert wrong.value.subject == flag
