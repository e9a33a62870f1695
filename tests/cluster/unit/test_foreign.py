"""A cluster of somebody else's: what is missing is said before anything is started there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cluster import fixtures, foreign, run
from tests.cluster.errors import ClusterUnavailable


def open_foreign(directory: Path) -> None:
    with foreign.foreign_cluster(directory / "kubeconfig", directory):
        pass


def test_an_image_has_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(foreign.IMAGE_ENV, raising=False)
    with pytest.raises(ClusterUnavailable, match=f"which image.*set {foreign.IMAGE_ENV}"):
        open_foreign(tmp_path)


def test_kubectl_has_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(foreign.IMAGE_ENV, "registry.example.com/workload")
    monkeypatch.delenv(foreign.KUBECTL_ENV, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterUnavailable, match="kubectl: is not in PATH"):
        open_foreign(tmp_path)


def test_the_kubeconfig_has_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(foreign.IMAGE_ENV, "registry.example.com/workload")
    monkeypatch.setenv(foreign.KUBECTL_ENV, "kubectl")
    with pytest.raises(ClusterUnavailable, match=re.escape(f"kubeconfig {tmp_path}/kubeconfig: is not a file")):
        open_foreign(tmp_path)


def test_the_runner_fails_with_that_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(foreign.IMAGE_ENV, raising=False)
    assert run.main(["--kubeconfig", str(tmp_path / "kubeconfig")]) == 1
    assert capsys.readouterr().err.startswith(f"make e2e: cluster of {tmp_path}/kubeconfig: ")


def test_tests_that_are_named_are_all_that_runs() -> None:
    everything = run._pytest(["-x"])
    assert everything[-3:] == ["-x", "tests/cluster/scenarios", "tests/scenarios"]
    assert run._pytest(["-k", "slice"])[-2:] == list(run._TESTS)
    one = f"{Path(__file__)}::test_x"
    assert run._pytest([one, "-s"])[-2:] == [one, "-s"]


def test_no_run_follows_the_environment_to_the_cluster_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (run.BASE_ENV, run.RUN_ENV, run.KUBECONFIG_ENV):
        monkeypatch.setenv(name, "elsewhere")
    assert "elsewhere" not in run._environment().values()


def test_a_namespace_is_named_after_its_test() -> None:
    long = "test_" + "x" * 60
    names = [fixtures.namespace_name(test) for test in ("test_a_pod[case-1]", f"{long}_y", f"{long}_z")]
    assert names[0].startswith("test-a-pod-case-1")
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name) for name in names)
