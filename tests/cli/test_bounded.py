"""Questions that may hang: answered, refused, or given up, and never waited for longer than said."""

import os
import signal
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from fracgpu.cli import bounded
from fracgpu.cli.bounded import answer_within
from fracgpu.cli.errors import NoAnswer, RunRefused

GENEROUS_SECONDS = 60.0


def test_the_answer_comes_back_from_another_process() -> None:
    assert answer_within(GENEROUS_SECONDS, "x", os.getpid) != os.getpid()
    long = answer_within(GENEROUS_SECONDS, "x", lambda: "x" * 1_000_000)
    assert len(long) == 1_000_000


def test_our_errors_come_back_as_they_are() -> None:
    def refuse() -> NoReturn:
        raise RunRefused("a", "is wrong", remedy="correct it")

    with pytest.raises(RunRefused, match="a: is wrong; correct it"):
        answer_within(GENEROUS_SECONDS, "x", refuse)


def hang() -> None:
    threading.Event().wait()


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def test_a_question_that_hangs_is_given_up_and_its_process_killed() -> None:
    before = children()
    with pytest.raises(NoAnswer, match=r"^NVML: did not answer within 0 s; look for Xid errors"):
        answer_within(0.0, "NVML", hang)
    for pid in children() - before:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_question_that_ends_its_process_is_no_answer() -> None:
    with pytest.raises(NoAnswer, match=r"the process that asked ended with -9; check that nvidia-smi works"):
        answer_within(GENEROUS_SECONDS, "NVML", die)


def test_an_unexpected_error_is_told() -> None:
    def fail() -> NoReturn:
        raise ZeroDivisionError("seven")

    with pytest.raises(NoAnswer, match=r"failed with ZeroDivisionError\('seven'\)"):
        answer_within(GENEROUS_SECONDS, "NVML", fail)


def test_an_interrupted_question_leaves_no_process_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a driver hangs: it would hold what it has of the GPU for ever."""
    before = children()

    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(bounded, "_read_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        answer_within(GENEROUS_SECONDS, "x", hang)
    for pid in children() - before:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_no_descriptor_is_left_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    answer_within(GENEROUS_SECONDS, "x", os.getpid)
    with pytest.raises(NoAnswer):
        answer_within(0.0, "x", hang)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
