"""The standalone build: limits from the environment, and no GPU where they make no sense."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GPU = "GPU-11111111-2222-3333-4444-555555555555"


@pytest.fixture
def client(program: Callable[[str], Path]) -> Path:
    return program("client")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "gpu",
        f" {GPU} 1024Mi 0",
        f"gpu {GPU} 1024Mi",
        f"gpu {GPU} 1024Mi 101",
        f"gpu {GPU} 1024Mi 0 ",
        f"gpu {GPU} 1024Mi x",
        f"gpu {GPU} 1024 0",
        f"gpu {GPU} 0Mi 0",
        f"gpu {GPU} -5Mi 0",
        f"gpu {GPU} 99999999999999999999999Mi 0",
        f"gpu {GPU[:-1]} 1024Mi 0",
        f"gpu {GPU}0 1024Mi 0",
        "gpu MIG-11111111-2222-3333-4444-555555555555 1024Mi 0",
    ],
)
def test_malformed_limit_closes_the_gpu(prefix: Any, client: Path, value: str) -> None:
    prefix.allocate(GPU, 0, value=value)
    result = prefix.run(client, "init", "alloc", "2", "nvml", "0")
    assert result.stdout == "init 802\nalloc 802\nnvml 999\n"


def test_no_limit_closes_the_gpu(prefix: Any, client: Path) -> None:
    assert prefix.run(client, "init").stdout == "init 802\n"


@pytest.mark.parametrize("key", ["FRACGPU_ALLOCATION_", "FRACGPU_ALLOCATION_0123456789ABCDEF", "FRACGPU_ALLOCATION_01"])
def test_other_variables_are_not_limits(prefix: Any, client: Path, key: str) -> None:
    prefix.env[key] = f"gpu {GPU} 1024Mi 0"
    assert prefix.run(client, "init").stdout == "init 802\n"


def test_missing_state_closes_the_gpu(prefix: Any, client: Path) -> None:
    prefix.allocate(GPU, 1024).unlink()
    assert prefix.run(client, "init", "nvml", "0").stdout == "init 802\nnvml 999\n"


def test_state_may_be_a_link_and_the_prefix_the_librarys_own(prefix: Any, client: Path, tmp_path: Path) -> None:
    state = prefix.allocate(GPU, 1024)
    state.rename(tmp_path / "state")
    state.symlink_to(tmp_path / "state")
    prefix.env["FRACGPU_PREFIX"] = ""
    result = prefix.run(client, "init", "device", "0", "info", "nvml", "0")
    assert result.stdout == "init 0\ninfo 0 1024 1024\nnvml 0 1024 0 1024\n"
