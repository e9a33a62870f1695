"""fracgpu run as a user meets it: the limit, the exit status, what is printed and what is left behind."""

import json
import os
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fracgpu.cli.main import main
from fracgpu.native.fake_gpu import read_usage
from tests.cli.machine import GPUS, MIB, Machine, json_lines

SHOW_ENVIRONMENT = "import json, os; print(json.dumps(dict(os.environ)))"


def environment_of(machine: Machine, *arguments: str | Path, **env: str) -> dict[str, str]:
    """What the command is given."""
    result = machine.run("--memory", "1Gi", *arguments, "--", sys.executable, "-c", SHOW_ENVIRONMENT, **env)
    assert result.returncode == 0, result.stderr
    shown: dict[str, str] = json.loads(result.stdout)
    return shown


def test_the_command_is_held_to_its_limit(machine: Machine) -> None:
    result = machine.run("--memory", "2Gi", "--", machine.probe("climb"), "driver", "512")
    refused = json_lines(result.stdout)[-1]
    assert (refused["event"], refused["name"]) == ("refused", "CUDA_ERROR_OUT_OF_MEMORY")
    # The command's context counts, so the fourth step does not fit.
    assert (refused["allocated_bytes"], refused["total_bytes"]) == (1536 * MIB, 2048 * MIB)
    # The card itself never held more, not even for a moment.
    assert read_usage(machine.gpus)[0].peak_used_bytes == 1600 * MIB
    assert (result.returncode, result.stderr) == (0, "fracgpu run: GPU 0: peak 1600Mi of 2048Mi, 1 refused\n")
    assert machine.prefixes() == []


def test_nvml_and_cuda_show_the_limit_as_the_card(machine: Machine) -> None:
    result = machine.run("--memory", "3000Mi", "--quiet", "--", machine.probe("view"))
    (view,) = json_lines(result.stdout)
    assert [device["total_bytes"] for device in view["cuda"]["devices"]] == [3000 * MIB]
    # NVML has the cards that the program was given, whatever CUDA_VISIBLE_DEVICES says.
    assert {device["uuid"]: device["v1"]["total_bytes"] for device in view["nvml"]["devices"]} == {GPUS[0]: 3000 * MIB}
    assert result.stderr == ""


def test_all_processes_of_a_run_share_one_limit_and_other_runs_have_their_own(
    machine: Machine, start: Callable[..., subprocess.Popen[str]]
) -> None:
    hold, climb = machine.probe("hold"), machine.probe("climb")
    both = f"{hold} driver 1024 & read line; {climb} driver 256; kill $!; wait"
    first = start("--memory", "2Gi", "--", "sh", "-c", both)
    assert first.stdout is not None
    assert first.stdin is not None
    assert json.loads(first.stdout.readline())["ready"] is True
    other = machine.run("--memory", "2Gi", "--", climb, "driver", "256")
    assert json_lines(other.stdout)[-1]["allocated_bytes"] == 1792 * MIB
    output, errors = first.communicate("\n")
    # 1024Mi of the other process, and the contexts of both.
    assert json_lines(output)[-1]["allocated_bytes"] == 768 * MIB
    assert "GPU 0: peak 1920Mi of 2048Mi, 1 refused" in errors


def test_cuda_of_a_python_program_is_limited(machine: Machine) -> None:
    program = (
        "from cuda.bindings import driver as cuda\n"
        "assert cuda.cuInit(0)[0] == 0\n"
        "print(int(cuda.cuDeviceTotalMem(cuda.cuDeviceGet(0)[1])[1]))\n"
    )
    result = machine.run("--memory", "1500Mi", "--", sys.executable, "-c", program)
    assert (result.returncode, result.stdout) == (0, f"{1500 * MIB}\n"), result.stderr


@pytest.mark.parametrize("name", ["libcuda.so", "libcuda.so.1", "libcuda.so.580.65.06"])
def test_the_driver_is_limited_under_every_name(machine: Machine, name: str) -> None:
    program = (
        "import ctypes\n"
        f"cuda = ctypes.CDLL({name!r})\n"
        "total = ctypes.c_size_t()\n"
        "assert cuda.cuInit(0) == 0\n"
        "assert cuda.cuDeviceTotalMem_v2(ctypes.byref(total), 0) == 0\n"
        "print(total.value)\n"
    )
    result = machine.run("--memory", "1Gi", "--", sys.executable, "-c", program)
    assert (result.returncode, result.stdout) == (0, f"{1024 * MIB}\n"), result.stderr


EXITS = [
    ("status", ["sh", "-c", "exit 7"], 7),
    ("killed", ["sh", "-c", "kill -KILL $$"], 137),
    ("terminated", ["sh", "-c", "kill -TERM $$"], 143),
]


@pytest.mark.parametrize(("command", "status"), [case[1:] for case in EXITS], ids=[case[0] for case in EXITS])
def test_the_exit_status_is_the_commands(machine: Machine, command: list[str], status: int) -> None:
    assert machine.run("--memory", "1Gi", "--quiet", "--", *command).returncode == status
    assert machine.prefixes() == []


@pytest.mark.parametrize(
    ("command", "status", "text"),
    [
        ("fracgpu-no-such-command", 127, "No such file or directory; give its path, or correct PATH"),
        ("/etc/passwd", 126, "Permission denied; make it an executable program"),
        ("/tmp", 126, "Permission denied; make it an executable program"),
        ("", 127, "is an empty name"),
    ],
    ids=["not found", "not executable", "directory", "empty"],
)
def test_a_command_that_does_not_start_is_named(machine: Machine, command: str, status: int, text: str) -> None:
    result = machine.run("--memory", "1Gi", "--", command)
    assert result.returncode == status
    (line,) = result.stderr.splitlines()
    assert line.startswith("fracgpu run: ")
    assert text in line
    assert machine.prefixes() == []


def test_a_script_whose_interpreter_is_missing_is_not_said_to_be_missing_itself(machine: Machine) -> None:
    script = machine.driver_root / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    result = machine.run("--memory", "1Gi", "--", script)
    assert result.returncode == 126
    assert f"command {script}: is there, and the interpreter or loader that it names is not; correct" in result.stderr


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_the_exit_status_does_not_depend_on_who_listens(machine: Machine, redirection: str) -> None:
    script = f'"$@" {redirection}'
    for arguments, status in (
        (["--memory", "1Gi", "--", "sh", "-c", "exit 7"], 7),
        (["--memory", "1Gi", "--gpu", "9", "--", "true"], 125),
        (["--memory", "0", "--", "true"], 2),
    ):
        command = ["sh", "-c", script, "sh", *machine.arguments(*arguments)]
        assert subprocess.run(command, env=machine.environment(), check=False).returncode == status
    assert machine.prefixes() == []


def test_a_reader_that_went_away_changes_no_exit_status(machine: Machine) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    arguments = machine.arguments("--memory", "1Gi", "--", "sh", "-c", "exit 7")
    try:
        result = subprocess.run(arguments, env=machine.environment(), stderr=writer, check=False)
    finally:
        os.close(writer)
    assert result.returncode == 7
    assert machine.prefixes() == []


def test_arguments_and_input_reach_the_command_unchanged(machine: Machine) -> None:
    program = "import sys; print(sys.argv[1:], sys.stdin.read())"
    arguments = ["--", "--memory", "a b", "", "$HOME"]
    result = subprocess.run(
        machine.arguments("--memory", "1Gi", "--quiet", "--", sys.executable, "-c", program, *arguments),
        env=machine.environment(),
        input="in",
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == f"{arguments} in\n"


USAGE = [
    ("no memory", ["--", "true"], "--memory"),
    ("no command", ["--memory", "1Gi"], "the command: is missing; give it after --"),
    ("no command after the dashes", ["--memory", "1Gi", "--"], "the command: is missing"),
    ("no dashes", ["--memory", "1Gi", "true"], "unrecognized arguments: true; the command goes after --"),
    ("unknown option", ["--memory", "1Gi", "--colour", "--", "true"], "unrecognized arguments: --colour; see fracgpu"),
    ("not a quantity", ["--memory", "2GiB", "--", "true"], "'2GiB' is not a quantity; give an amount, as 2Gi"),
    ("percent", ["--memory", "25%", "--", "true"], "'25%' is a share of a card; give an amount, as 2Gi"),
    ("zero", ["--memory", "0", "--", "true"], "less than 1Mi"),
    ("negative", ["--memory=-1Gi", "--", "true"], "is negative"),
    ("under one MiB", ["--memory", "1000Ki", "--", "true"], "less than 1Mi"),
    ("cores above 100", ["--memory", "1Gi", "--cores", "101", "--", "true"], "whole percentage from 0 to 100"),
    ("cores negative", ["--memory", "1Gi", "--cores=-1", "--", "true"], "whole percentage"),
    ("cores no number", ["--memory", "1Gi", "--cores", "3.5", "--", "true"], "whole percentage"),
    ("no such root", ["--memory", "1Gi", "--driver-root", "/no/such", "--", "true"], "'/no/such' is not a directory"),
    ("absurd cores", ["--memory", "1Gi", "--cores", "9" * 5000, "--", "true"], "is not a whole percentage"),
    ("absurd root", ["--memory", "1Gi", "--driver-root", "x" * 5000, "--", "true"], "is not a directory"),
    ("trailing space", ["--memory", "2Gi ", "--", "true"], "'2Gi ' is not a quantity"),
    ("abbreviation", ["--mem", "1Gi", "--", "true"], "--mem"),
]


@pytest.mark.parametrize(("arguments", "text"), [case[1:] for case in USAGE], ids=[case[0] for case in USAGE])
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["run", *arguments])
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert text in line


def test_help_is_about_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "-- COMMAND ..." in text
    assert "125: fracgpu itself could not run it" in " ".join(text.split())


def test_what_can_not_be_run_is_one_line_with_a_remedy_and_status_125(machine: Machine, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    cases: list[tuple[list[str], dict[str, str], str]] = [
        (["--gpu", "5"], {}, "GPU 5: is none of the 2 on this machine; choose one that nvidia-smi -L shows"),
        (["--memory", "9Gi"], {}, f"GPU 0 ({GPUS[0]}): has 8192Mi, less than --memory 9216Mi; ask for less"),
        ([], {"FRACGPU_ALLOCATION_0123456789abcdef": "x"}, "is under a limit of fracgpu already"),
        (["--driver-root", str(empty)], {}, "no libcuda.so.<version> in any library directory; install"),
        ([], {"FRACGPU_NATIVE_DIR": str(empty)}, "are not built; run `make native`"),
        ([], {"FRACGPU_FAKE_GPU": str(empty / "none")}, "NVML: does not work"),
        (["--gpu", "9" * 5000], {}, "99: is none of the 2 on this machine"),
        ([], {"CUDA_VISIBLE_DEVICES": ""}, "which hides every GPU; unset it, or choose with --gpu"),
    ]
    for arguments, env, text in cases:
        result = machine.run("--memory", "1Gi", *arguments, "--", "true", **env)
        assert (result.returncode, result.stdout) == (125, ""), text
        (line,) = result.stderr.splitlines()
        assert line.startswith("fracgpu run: ")
        assert text in line
    assert machine.prefixes() == []


def test_the_command_sees_the_chosen_gpus_only(machine: Machine) -> None:
    assert environment_of(machine)["CUDA_VISIBLE_DEVICES"] == GPUS[0]
    assert environment_of(machine, "--gpu", "1")["CUDA_VISIBLE_DEVICES"] == GPUS[1]
    both = environment_of(machine, "--gpu", GPUS[1], "--gpu", "0", CUDA_VISIBLE_DEVICES="0")
    assert both["CUDA_VISIBLE_DEVICES"] == f"{GPUS[1]},{GPUS[0]}"
    assert sorted(value for key, value in both.items() if key.startswith("FRACGPU_ALLOCATION_")) == [
        f"run {GPUS[0]} 1024Mi 0",
        f"run {GPUS[1]} 1024Mi 0",
    ]


def test_each_of_several_gpus_has_the_limit(machine: Machine) -> None:
    result = machine.run("--memory", "1Gi", "--gpu", "0", "--gpu", "1", "--quiet", "--", machine.probe("view"))
    (view,) = json_lines(result.stdout)
    seen = [(device["uuid"], device["total_bytes"]) for device in view["cuda"]["devices"]]
    assert seen == [(uuid, 1024 * MIB) for uuid in GPUS]


def test_the_environment_is_that_of_a_container(machine: Machine) -> None:
    env = environment_of(machine, "--cores", "30", LD_LIBRARY_PATH="/opt/mine", MINE="1")
    prefix = env["FRACGPU_PREFIX"]
    assert env["LD_LIBRARY_PATH"] == f"{prefix}:{prefix}/driver:/opt/mine"
    assert (env["CUDA_DEVICE_MEMORY_LIMIT_0"], env["CUDA_DEVICE_SM_LIMIT_0"]) == ("1024m", "30")
    assert env["MINE"] == "1"
    assert environment_of(machine, LD_LIBRARY_PATH="")["LD_LIBRARY_PATH"].endswith("/driver")


def test_cores_are_never_claimed_to_be_enforced(machine: Machine) -> None:
    result = machine.run("--memory", "1Gi", "--cores", "30", "--", machine.probe("climb"), "driver", "512")
    assert "fracgpu run: cores are noted but not enforced: this build limits memory only\n" in result.stderr
    assert "cores" not in machine.run("--memory", "1Gi", "--", "true").stderr


def test_a_command_that_took_no_part_is_told(machine: Machine) -> None:
    result = machine.run("--memory", "1Gi", "--", "true")
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("fracgpu run: warning: no process of the command took part in the limit")


def test_a_command_that_ruins_its_state_file_is_told(machine: Machine) -> None:
    result = machine.run(
        "--memory", "1Gi", "--", "sh", "-c", "for file in $FRACGPU_PREFIX/allocations/*/state; do echo >$file; done"
    )
    assert "GPU 0: what was used is not known: is 1 bytes long" in result.stderr


def test_the_prefix_is_private_and_does_not_depend_on_the_package(machine: Machine) -> None:
    program = (
        "import json, os, pathlib\n"
        "prefix = pathlib.Path(os.environ['FRACGPU_PREFIX'])\n"
        "shim = prefix / 'libcuda.so.1'\n"
        "print(json.dumps([str(prefix), prefix.stat().st_mode, shim.is_symlink(), shim.stat().st_nlink]))\n"
    )
    result = machine.run("--memory", "1Gi", "--quiet", "--", sys.executable, "-c", program)
    prefix, mode, shim_is_link, shim_links = json.loads(result.stdout)
    assert Path(prefix).parent == machine.temporary
    assert stat.S_IMODE(mode) == 0o700
    assert (shim_is_link, shim_links) == (False, 1)


def test_what_a_command_leaves_running_keeps_its_limit(machine: Machine) -> None:
    """The prefix stays for a process in the background, and the next run after its end removes it."""
    hold = machine.probe("hold")
    # The background process closes our pipes, or we would wait for it.
    script = f"{hold} driver 512 >out 2>&1 </dev/null & while ! grep -q ready out; do sleep 0.05; done; echo $!"
    result = machine.run("--memory", "1Gi", "--", "sh", "-c", f"cd {machine.driver_root}; {script}")
    assert "processes of the command still run, under the same limit; a later fracgpu run cleans up" in result.stderr
    (prefix,) = machine.prefixes()
    machine.run("--memory", "1Gi", "--", "true")
    assert machine.prefixes() == [prefix]
    finish(int(result.stdout), prefix)
    machine.run("--memory", "1Gi", "--", "true")
    assert machine.prefixes() == []


def test_a_killed_fracgpu_leaves_the_command_under_its_limit(
    machine: Machine, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("--memory", "1Gi", "--", machine.probe("hold"), "driver", "512")
    assert process.stdout is not None
    child = json.loads(process.stdout.readline())["pid"]
    process.kill()
    process.wait()
    (prefix,) = machine.prefixes()
    try:
        view = view_in(machine, prefix, child)
        machine.run("--memory", "1Gi", "--", "true")
        kept = machine.prefixes()
    finally:
        finish(child, prefix)
    # Each of the two processes has a context.
    assert view["cuda"]["devices"][0]["free_bytes"] == (512 - 2 * 64) * MIB
    assert kept == [prefix]
    machine.run("--memory", "1Gi", "--", "true")
    assert machine.prefixes() == []


def view_in(machine: Machine, prefix: Path, pid: int) -> dict[str, Any]:
    """What a program that the process `pid` might start now would see of the GPU."""
    entries = (Path("/proc") / str(pid) / "environ").read_bytes().split(b"\0")
    environment = dict(entry.decode().split("=", 1) for entry in entries if entry)
    assert environment["FRACGPU_PREFIX"] == str(prefix)
    command = [str(machine.probe("view"))]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    (view,) = json_lines(output)
    return view


def finish(pid: int, prefix: Path) -> None:
    """End a process that is not our child, and wait until it is gone."""
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        assert select.select([descriptor], [], [], 60)[0]
    finally:
        os.close(descriptor)
    assert prefix.is_dir()
