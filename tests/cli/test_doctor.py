"""fracgpu doctor: every check in each of its outcomes, on machines made of directories."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fracgpu.cli.doctor import run
from fracgpu.cli.doctor.finding import Finding, Level, fail, info, ok, warn
from fracgpu.cli.doctor.host import Host
from fracgpu.cli.doctor.nvml_facts import ask_nvml
from fracgpu.cli.doctor.report import as_json, as_text
from fracgpu.cli.doctor.run import examine, this_host
from fracgpu.cli.main import main
from tests.cli.doctor_cases import CASES, Change
from tests.cli.doctor_host import KUBELET, LIBRARIES, UUID, VERSION, Node, healthy_node, lines
from tests.cli.machine import DEADLINE_SECONDS, MIB, Machine


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return healthy_node(tmp_path / "host")


def test_a_healthy_node_has_nothing_to_repair(node: Node) -> None:
    found = examine(node.host())
    assert lines(found) == [
        "ok architecture: x86_64; containers get the libraries in /usr/lib/x86_64-linux-gnu, /usr/lib64",
        "ok kernel: 6.8.0-60-generic",
        "ok C library: glibc",
        f"ok interceptor: 7 files in {node.root}/opt/fracgpu",
        f"ok driver: {VERSION} at /: libcuda, libnvidia-ml, 0 more",
        "warn driver: libnvidia-ptxjitcompiler is missing",
        f"ok kernel module: {VERSION}",
        "ok device nodes: /dev/nvidia0, /dev/nvidiactl, /dev/nvidia-uvm",
        f"ok GPU 0: NVIDIA L40S, 49140Mi, {UUID}",
        "ok CDI directory: /var/run/cdi is writable",
        "ok CDI specs: 0 of ours",
        "ok container runtime: /etc/containerd/config.toml has CDI on",
        "ok kubelet: /var/lib/kubelet",
        "ok plugin socket: 1 answering in /var/lib/kubelet/plugins/gpu.fracgpu.dev",
        "ok registration: 1 answering in /var/lib/kubelet/plugins_registry",
        "ok checkpoint: 0 claim(s)",
        "ok stored interceptors: 1, whole",
        "ok other owners: none to be seen",
    ]
    assert all(finding.remedy for finding in found if finding.level in (Level.WARN, Level.FAIL))


@pytest.mark.parametrize(("change", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_outcome_is_told(node: Node, change: Change, expected: str) -> None:
    change(node)
    found = examine(node.host())
    assert [line for line in lines(found) if re.match(expected, line)], "\n".join(lines(found))
    assert all(finding.remedy for finding in found if finding.level in (Level.WARN, Level.FAIL))


def test_nobody_is_reported_where_there_is_an_owner(node: Node) -> None:
    node.write("usr/local/vgpu/libvgpu.so")
    assert not [line for line in lines(examine(node.host())) if line.endswith("none to be seen")]


def test_the_ptx_compiler_is_missed_only_where_it_is_missing(node: Node) -> None:
    compiler = Path(sys.executable).resolve()
    (node.root / LIBRARIES / f"libnvidia-ptxjitcompiler.so.{VERSION}").write_bytes(compiler.read_bytes())
    assert [finding.level for finding in examine(node.host()) if finding.check == "driver"] == [Level.OK]


def test_a_check_that_may_not_look_says_so_and_the_others_go_on(node: Node) -> None:
    def check_something(_: Host) -> list[Finding]:
        raise PermissionError(13, "Permission denied", "/secret")

    found = examine(node.host(), (check_something, lambda _: [ok("next", "fine")]))
    assert lines(found) == [
        "fail something: /secret can not be read: Permission denied",
        "ok next: fine",
    ]


def test_what_is_hidden_from_a_user_is_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.access
    hidden = node.root / KUBELET
    monkeypatch.setattr(os, "access", lambda path, mode: path != hidden and really(path, mode))
    first = examine(node.host())[0]
    assert (first.level, first.check) == (Level.WARN, "privileges")
    assert first.what == "/var/lib/kubelet can not be looked into by this user"


def test_a_cdi_directory_that_can_not_be_written_is_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK and really(path, mode))
    assert "warn CDI directory: /var/run/cdi can not be written to from here" in lines(examine(node.host()))


FINDINGS = [ok("a", "fine"), info("longer", "so it is"), warn("b", "hm", "look"), fail("c", "no", "repair")]


def test_the_report_is_aligned_and_sums_up() -> None:
    assert as_text(FINDINGS) == (
        "OK    a       fine\n"
        "INFO  longer  so it is\n"
        "WARN  b       hm\n"
        "              -> look\n"
        "FAIL  c       no\n"
        "              -> repair\n"
        "\n"
        "1 ok, 1 for information, 1 to look at, 1 to repair"
    )


def test_names_of_files_can_not_forge_the_report() -> None:
    odd = os.fsdecode(b"a\xff\n\x1b[31mOK    b")
    assert as_text([info("a", odd, odd)]).splitlines()[:2] == [
        r"INFO  a  a\udcff\n\x1b[31mOK    b",
        r"         -> a\udcff\n\x1b[31mOK    b",
    ]


def test_the_json_report_has_everything() -> None:
    document = json.loads(as_json(FINDINGS))
    assert document["findings"][2] == {"check": "b", "level": "warn", "what": "hm", "remedy": "look"}
    assert document["summary"] == {"ok": 1, "info": 1, "warn": 1, "fail": 1}


def test_nvml_is_asked_about_what_matters_for_sharing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRACGPU_FAKE_GPU", str(machine.gpus))
    found = ask_nvml(machine.libraries.fake_nvml).gpus
    assert [(one.gpu.memory_total_bytes, one.mig, one.vgpu) for one in found] == [(8192 * MIB, False, "")] * 2


def test_a_socket_answers_while_somebody_listens(tmp_path: Path) -> None:
    path = tmp_path / "s"
    answers = this_host(tmp_path, None).answers
    assert not answers(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert not answers(path)
        server.listen()
        assert answers(path)
    assert not answers(path)


def test_the_hosts_own_proc_is_preferred(tmp_path: Path) -> None:
    assert this_host(tmp_path, None).proc == Path("/proc")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/version").write_text("Linux version 6.8.0\n")
    assert this_host(tmp_path, None).proc == tmp_path / "proc"


def doctor(machine: Machine, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fracgpu.cli.main", "doctor", "--host-root", str(machine.driver_root), *arguments],
        env=machine.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )


def test_the_command_tells_what_is_to_repair(machine: Machine) -> None:
    result = doctor(machine)
    assert (result.returncode, result.stderr) == (1, "")
    assert "OK    GPU 0 " in result.stdout
    assert "FAIL  kernel module " in result.stdout or "OK    kernel module " in result.stdout
    assert "to repair" in result.stdout.splitlines()[-1]


def test_the_command_is_content_with_a_healthy_machine(machine: Machine) -> None:
    (machine.driver_root / "proc/driver/nvidia").mkdir(parents=True)
    (machine.driver_root / "proc/version").write_text("Linux version 6.8.0\n")
    module = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Tue Apr 1\n"
    (machine.driver_root / "proc/driver/nvidia/version").write_text(module)
    result = doctor(machine, "--json")
    document = json.loads(result.stdout)
    assert document["summary"]["fail"] == 0, document
    assert result.returncode == 0


def test_a_report_that_can_not_be_written_is_told(machine: Machine) -> None:
    command = [sys.executable, "-m", "fracgpu.cli.main", "doctor", "--host-root", str(machine.driver_root)]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        result = subprocess.run(
            command, env=machine.environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.stderr == "fracgpu doctor: standard output: No space left on device; write the report elsewhere\n"
    assert result.returncode == 1


def test_a_kubelet_directory_that_may_not_be_looked_into_is_the_usual_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run, "find_kubelet_root", refuse)
    assert this_host(tmp_path, None).kubelet_root == Path("/var/lib/kubelet")


def test_links_do_not_lead_off_the_host(node: Node, tmp_path: Path) -> None:
    """Whoever runs doctor in a pod would be told about the pod."""
    outside = tmp_path / "outside.json"
    outside.write_text('{"kind": "nvidia.com/gpu"}')
    node.write("etc/cdi/other.json")
    (node.root / "etc/cdi/x.json").symlink_to(outside)
    assert "ok CDI specs: 0 of ours" in lines(examine(node.host()))
    assert not [line for line in lines(examine(node.host())) if "nvidia.com/gpu" in line]


@pytest.mark.parametrize(
    "arguments",
    [["--host-root", "/no/such"], ["--host-root", "x" * 5000], ["--kubelet-root", "x"], ["--fix"], ["extra"]],
)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_every_check_is_run() -> None:
    """A check that is written and forgotten in the list would never be missed."""
    modules = ("driver_checks", "machine_checks", "node_checks", "owner_checks", "runtime_checks")
    package = Path(run.__file__).parent
    written = {
        name
        for module in modules
        for name in re.findall(r"^def (check_\w+)", (package / f"{module}.py").read_text(), re.M)
    }
    assert written == {check.__name__ for check in run._CHECKS}
