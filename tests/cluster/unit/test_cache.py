"""The cache has whole artefacts only, builds each once, and removes nothing that somebody uses."""

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.build.cache import CACHE_ENV, KEPT, Cache, cache_root

ROOT = Path(__file__).resolve().parents[3]
_DEADLINE_S = 20.0


def writes(text: str) -> Callable[[Path], None]:
    def make(directory: Path) -> None:
        (directory / "file").write_text(text)

    return make


def must_not_be_built(_directory: Path) -> None:
    raise AssertionError("it is there already")


def keys(cache: Cache, artefact: str) -> set[str]:
    return {path.name for path in (cache.root / artefact).iterdir() if path.name != ".lock"}


def session(root: Path, body: str) -> subprocess.Popen[str]:
    """Start another session: a process with a cache on the same directory."""
    program = "from tests.cluster.build.cache import Cache\nimport pathlib, sys, time, os\n"
    program += f"cache = Cache(pathlib.Path({str(root)!r}))\n{textwrap.dedent(body)}"
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_artefact_is_built_once(tmp_path: Path) -> None:
    lines: list[str] = []
    cache = Cache(tmp_path, lines.append)
    path = cache.get("thing", "key", writes("content"))
    assert path == tmp_path / "thing" / "key"
    assert (path / "file").read_text() == "content"
    assert cache.get("thing", "key", must_not_be_built) == path
    assert [line.split(" in ")[0] for line in lines] == [
        "thing: being built",
        "thing: built",
        "thing: as built before (0.0 MB)",
    ]


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def fail(directory: Path) -> None:
        (directory / "half").touch()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.get("thing", "key", fail)
    assert keys(cache, "thing") == set()
    assert (cache.get("thing", "key", writes("whole")) / "file").read_text() == "whole"


def test_a_killed_build_leaves_nothing_that_is_taken_for_whole(tmp_path: Path) -> None:
    building = session(
        tmp_path,
        """
        def make(directory):
            (directory / "half").write_text("half")
            time.sleep(60)
        cache.get("thing", "key", make)
        """,
    )
    wait_for(lambda: any(tmp_path.glob("thing/.new-*/half")))
    building.send_signal(signal.SIGKILL)
    building.communicate()
    cache = Cache(tmp_path)
    path = cache.get("thing", "key", writes("whole"))
    assert [entry.name for entry in path.iterdir()] == ["file"]
    assert keys(cache, "thing") == {"key"}


def test_sessions_at_once_build_once(tmp_path: Path) -> None:
    body = f"""
    def make(directory):
        with open({str(tmp_path / "built")!r}, "a") as file:
            file.write("x")
        time.sleep(0.5)
        (directory / "file").write_text("content")
    print((cache.get("thing", "key", make) / "file").read_text())
    """
    sessions = [session(tmp_path / "cache", body) for _ in range(3)]
    assert [process.communicate(timeout=_DEADLINE_S)[0] for process in sessions] == ["content\n"] * 3
    assert (tmp_path / "built").read_text() == "x"


def test_who_waits_is_told_so(tmp_path: Path) -> None:
    lines: list[str] = []
    Cache(tmp_path).get("thing", "key", writes(""))
    lock = (tmp_path / "thing" / ".lock").open("rb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    program = 'cache.report = lambda line: print(line, flush=True)\ncache.get("thing", "key", None)\n'
    waiting = session(tmp_path, program)
    assert waiting.stdout is not None
    lines.append(waiting.stdout.readline())
    lock.close()
    lines += waiting.communicate(timeout=_DEADLINE_S)[0].splitlines(keepends=True)
    assert lines == [
        "thing: waiting for another session that is building it\n",
        "thing: as built before (0.0 MB)\n",
    ]


def test_only_the_keys_wanted_last_are_kept(tmp_path: Path) -> None:
    for number in range(KEPT + 2):
        # Each from a cache of its own, as in a process of its own: what a process uses it keeps.
        forget(cache := Cache(tmp_path))
        cache.get("thing", f"key-{number}", writes(""))
        cache.get("other", "key", writes(""))
        forget(cache)
    forget(cache := Cache(tmp_path))
    assert keys(cache, "thing") == {f"key-{number}" for number in range(2, KEPT + 2)}
    cache.get("thing", "key-2", must_not_be_built)
    cache.get("thing", "new", writes(""))
    assert keys(cache, "thing") == {"key-2", "new"}
    assert keys(cache, "other") == {"key"}


def test_what_another_session_uses_is_kept_until_it_ends(tmp_path: Path) -> None:
    body = """
    cache.get("thing", "used", lambda directory: None)
    print("there", flush=True)
    sys.stdin.read()
    """
    program = session(tmp_path, body.replace("sys.stdin.read()", "time.sleep(60)"))
    assert program.stdout is not None
    assert program.stdout.readline() == "there\n"
    cache = Cache(tmp_path)
    for number in range(KEPT + 1):
        cache.get("thing", f"key-{number}", writes(""))
        forget(cache)
    assert "used" in keys(cache, "thing")
    program.kill()
    program.communicate()
    cache.get("thing", "another", writes(""))
    assert "used" not in keys(cache, "thing")


def forget(cache: Cache) -> None:
    """Do what the end of a process does: give up what it uses."""
    for descriptor in cache._used.values():
        os.close(descriptor)
    cache._used.clear()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "chosen"))
    assert cache_root() == tmp_path / "chosen"
    monkeypatch.delenv(CACHE_ENV)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "fracgpu" / "e2e"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "fracgpu" / "e2e"
