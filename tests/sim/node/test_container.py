"""Containers as processes, in every kind of isolation that this machine allows."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fracgpu.sim.node.cdi_registry import Mount
from fracgpu.sim.node.container import ContainerProcess, ContainerSpec
from fracgpu.sim.node.errors import ContainerCreateError, ContainerStartError
from fracgpu.sim.node.isolation import MOUNT_NAMESPACE, USER_NAMESPACE, Isolation, probe_isolation, standalone

MISSING_LIBRARY = "/usr/lib/fracgpu-test/libmissing.so.1"


@pytest.fixture(params=[MOUNT_NAMESPACE, USER_NAMESPACE], ids=lambda one: one.description)
def isolation(request: pytest.FixtureRequest) -> Isolation:
    wanted: Isolation = request.param
    found = probe_isolation(candidates=(wanted,))
    if not found.mounts:
        pytest.skip(found.description)
    return found


def run(script: str, isolation: Isolation | None = None, *mounts: Mount, **env: str) -> tuple[int, str]:
    spec = ContainerSpec(
        subject="container test",
        argv=("sh", "-c", script),
        env={"PATH": os.defpath, **env},
        namespaces=isolation.namespaces if isolation else (),
        mounts=mounts,
    )
    code, stdout, stderr = ContainerProcess(spec, stdout=subprocess.PIPE, stderr=subprocess.PIPE).communicate()
    return code, (stdout + stderr).decode()


def test_mounts_appear_where_nothing_was_and_nowhere_else(isolation: Isolation, tmp_path: Path) -> None:
    source = tmp_path / "library"
    source.write_text("shim\n")
    code, output = run(
        f"cat {MISSING_LIBRARY}; ls -d /usr/lib/fracgpu-test /run/*", isolation, Mount(str(source), MISSING_LIBRARY)
    )
    assert (code, output.splitlines()[:2]) == (2, ["shim", "/usr/lib/fracgpu-test"])
    assert not Path(MISSING_LIBRARY).exists()


def test_mounts_cover_existing_files_and_links(isolation: Isolation, tmp_path: Path) -> None:
    source, covered, link = tmp_path / "new", tmp_path / "old", tmp_path / "link"
    source.write_text("new\n")
    covered.write_text("old\n")
    link.symlink_to(covered)
    assert run(f"cat {covered} {link}", isolation, Mount(str(source), str(link))) == (0, "new\nnew\n")
    assert covered.read_text() == "old\n"


def test_read_only_mounts_refuse_writes_and_others_do_not(isolation: Isolation, tmp_path: Path) -> None:
    config, state = tmp_path / "config", tmp_path / "state"
    config.write_text("c")
    state.write_text("s")
    mounts = (
        Mount(str(config), "/run/fracgpu/a/config", ("ro", "bind")),
        Mount(str(state), "/run/fracgpu/a/state", ("bind",)),
    )
    code, output = run("echo x > /run/fracgpu/a/state; echo x > /run/fracgpu/a/config", isolation, *mounts)
    assert code != 0
    assert "Read-only file system" in output
    assert (config.read_text(), state.read_text()) == ("c", "x\n")


def test_the_container_runs_as_its_caller(isolation: Isolation) -> None:
    assert run("id -u; id -g", isolation) == (0, f"{os.getuid()}\n{os.getgid()}\n")


def test_the_environment_is_exactly_the_given_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRACGPU_TEST_LEAK", "1")
    code, output = run("env | sort", None, A="1", B="x y")
    assert code == 0
    names = {line.partition("=")[0] for line in output.splitlines()}
    # A shell adds these by itself.
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"PATH", "A", "B"}


def test_a_missing_source_is_a_create_error(isolation: Isolation, tmp_path: Path) -> None:
    with pytest.raises(ContainerCreateError, match=r"No such file or directory.*nowhere"):
        run("true", isolation, Mount(str(tmp_path / "nowhere"), "/run/x"))


def test_a_command_that_is_not_there_is_a_start_error() -> None:
    spec = ContainerSpec(subject="container ns/pod/main", argv=("no-such-command",), env={"PATH": os.defpath})
    with pytest.raises(ContainerStartError, match=r"container ns/pod/main: exec no-such-command: No such file"):
        ContainerProcess(spec, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)], ids=str
)
def test_exit_codes(script: str, code: int) -> None:
    assert run(script)[0] == code


def test_what_the_command_leaves_behind_ends_with_it() -> None:
    spec = ContainerSpec(subject="c", argv=("sh", "-c", "sleep 1000 & echo $!"), env={"PATH": os.defpath})
    process = ContainerProcess(spec, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert process.wait() == 0
    process.stdout.close()
    with pytest.raises(ProcessLookupError):
        _await_end(child)


def _await_end(pid: int) -> None:
    """Wait for a process that is not ours, then look for it (raises ProcessLookupError when it is gone)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    with os.fdopen(descriptor) as watched:
        select.select([watched], [], [], 30)
    status = Path(f"/proc/{pid}/stat")
    if status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        return
    raise ProcessLookupError(pid)


def test_signals_reach_the_whole_group_and_only_after_exec_defaults() -> None:
    spec = ContainerSpec(subject="c", argv=("sh", "-c", "echo ready; sleep 1000"), env={"PATH": os.defpath})
    process = ContainerProcess(spec, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    process.terminate()
    process.kill()
    process.stdout.close()


def test_sigpipe_is_not_ignored_in_the_container() -> None:
    code, output = run("grep SigIgn /proc/self/status")
    assert code == 0
    assert int(output.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0


def test_a_second_process_joins_the_namespaces(isolation: Isolation, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_text("inside\n")
    spec = ContainerSpec(
        subject="c",
        argv=("sh", "-c", "echo made > /run/made; echo ready; sleep 1000"),
        env={"PATH": os.defpath},
        namespaces=isolation.namespaces,
        mounts=(Mount(str(source), "/run/mounted"),),
    )
    main = ContainerProcess(spec, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert main.stdout is not None
    main.stdout.readline()
    inner = ContainerSpec(
        subject="c", argv=("cat", "/run/made", "/run/mounted"), env=spec.env, namespaces=isolation.namespaces
    )
    result = ContainerProcess(inner, stdout=subprocess.PIPE, stderr=subprocess.PIPE, join_pid=main.pid).communicate()
    assert result == (0, b"made\ninside\n", b"")
    main.kill()
    assert main.wait() == 137
    main.stdout.close()


def test_a_container_dies_with_its_runtime(tmp_path: Path) -> None:
    program = (
        "import os, subprocess, sys\n"
        "from fracgpu.sim.node.container import ContainerProcess, ContainerSpec\n"
        "spec = ContainerSpec(subject='c', argv=('sleep', '1000'), env={'PATH': os.defpath})\n"
        "print(ContainerProcess(spec, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    with pytest.raises(ProcessLookupError):
        _await_end(int(result.stdout))


def test_the_probe_tells_what_is_not_permitted() -> None:
    impossible = Isolation(("user", "mount"), "namespaces of nobody")
    assert probe_isolation(candidates=()) == standalone("not tried")
    assert probe_isolation(candidates=(impossible,)).namespaces in {impossible.namespaces, ()}
