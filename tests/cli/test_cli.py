"""The command line: what it prints, what it returns, and what it leaves behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fracgpu.cli.main import main
from fracgpu.native.libraries import DIRECTORY_ENV, NativeLibraries

COMMAND = [sys.executable, "-m", "fracgpu.cli.main"]


def command(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **env}
    )


def processes_mentioning(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name in ("run", "doctor", "lab", "fit", "explain", "top", "migrate", "controller", "kubeletplugin", "version"):
        assert f"\n    {name}" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["nonsense"], "invalid choice"),
        (["lab", "--bogus"], "--bogus"),
        (["lab", "--bundle"], "--bundle"),
        (["lab", "--bundle", "/no/such/place/out.tgz"], "/no/such/place is not a directory"),
        (["lab", "--bundle", "/tmp"], "/tmp is a directory"),
    ],
    ids=["no command", "unknown command", "unknown option", "no value", "no directory", "a directory"],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize("spelling", ["version", "--version"])
def test_version(capsys: pytest.CaptureFixture[str], spelling: str) -> None:
    assert main([spelling]) == 0
    assert capsys.readouterr().out.startswith("fracgpu ")


def test_the_plugin_gets_its_own_options() -> None:
    result = command("kubeletplugin", "--no-such-option")
    assert (result.returncode, result.stdout) == (2, "")
    assert "--no-such-option" in result.stderr


def test_the_plugin_does_not_need_what_only_the_lab_needs() -> None:
    program = (
        "import sys\n"
        "from fracgpu.cli.main import main\n"
        "code = main(['kubeletplugin', '--no-such-option'])\n"
        "print(code, [name for name in sys.modules if name.startswith(('fracgpu.sim', 'aiohttp'))])\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "2 []\n"


def test_a_lab_without_native_parts_names_the_remedy(tmp_path: Path) -> None:
    result = command("lab", **{DIRECTORY_ENV: str(tmp_path)})
    assert (result.returncode, result.stdout) == (3, "")
    assert "make native" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_lab_prints_a_table_and_its_evidence(native_build: NativeLibraries) -> None:
    result = command("lab")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("fracgpu lab: simulated GPU (NVIDIA L40S (model), 49140 MiB)")
    assert [line.split()[:2] for line in lines[1:6]] == [[f"E{number}", "PASS"] for number in range(1, 6)]
    assert lines[-1] == "5 of 5 passed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda one: one.name)
def test_an_interrupted_lab_leaves_nothing(
    native_build: NativeLibraries, tmp_path_factory: pytest.TempPathFactory, number: signal.Signals
) -> None:
    directory = tmp_path_factory.mktemp("t")
    with subprocess.Popen(
        [*COMMAND, "lab"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(directory)},
        # A shell starts background jobs with SIGINT ignored, and a test run may be one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        assert "simulated GPU" in process.stdout.readline()
        assert processes_mentioning(str(directory))
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "nothing is left behind" in errors
    assert list(directory.iterdir()) == []
    assert processes_mentioning(str(directory)) == []
