"""Every hooked symbol does what its hook is for, and the test that says so fails on a library without that hook."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LIMIT_MIB = 1024
GPUS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa")


@pytest.fixture
def behave(prefix: Any, program: Callable[[str], Path]) -> tuple[Any, list[str | Path]]:
    """The prefix with a limit on both GPUs, and the command line of the program that judges one symbol."""
    states = [prefix.allocate(gpu, LIMIT_MIB) for gpu in GPUS]
    return prefix, [program("behave"), "SYMBOL", str(LIMIT_MIB), *states]


def test_hook_does_its_work(behave: tuple[Any, list[str | Path]], hook: Any) -> None:
    prefix, command = behave
    prefix.run(command[0], hook.symbol, *command[2:], expect=0)


def test_check_of_hook_fails_without_it(
    behave: tuple[Any, list[str | Path]], hook: Any, mutant: Callable[[Any], Path]
) -> None:
    prefix, command = behave
    prefix.use(hook.file_name, mutant(hook))
    result = prefix.run(command[0], hook.symbol, *command[2:], expect=1)
    assert re.search(r"\bbehave(_\w+)?\.c:\d+: ", result.stderr)
