"""What is missing is installed where that is possible; elsewhere the error is the command."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.build import apt
from tests.cluster.build.errors import CommandFailed, MirrorMissing, PackageMissing

Script = Callable[[str, str], None]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Write a program into the only directory of programs."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("sh", "cat", "touch", "chmod", "setpriv"):
        (directory / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr(apt, "_ADMIN_PATH", ())
    monkeypatch.chdir(tmp_path)

    def write(name: str, body: str) -> None:
        (directory / name).write_text(f"#!{directory}/sh\n{body}\n")
        (directory / name).chmod(0o755)

    return write


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_a_program_that_is_there_is_taken(script: Script, tmp_path: Path) -> None:
    script("apt-get", "touch asked")
    script("runc", "")
    assert apt.program("runc", "runc") == tmp_path / "bin" / "runc"
    assert not (tmp_path / "asked").exists()


def test_a_missing_program_is_installed_by_root(script: Script, root: None, tmp_path: Path) -> None:
    script("apt-get", 'echo "$@" >> asked; case "$*" in *install*) touch bin/ip; chmod 755 bin/ip;; esac')
    assert apt.program("ip", "iproute2") == tmp_path / "bin" / "ip"
    assert (tmp_path / "asked").read_text().splitlines() == [
        "-qq update",
        "-qq install --yes --no-install-recommends iproute2",
    ]


def test_others_are_told_the_command(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script("apt-get", "touch asked")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PackageMissing, match=r"ip: is not on this machine; run: sudo apt-get install iproute2$"):
        apt.program("ip", "iproute2")
    assert not (tmp_path / "asked").exists()


def test_so_is_root_where_there_is_no_apt(script: Script, root: None) -> None:
    with pytest.raises(PackageMissing, match="apt-get install iproute2"):
        apt.program("ip", "iproute2")


def test_a_failing_apt_is_quoted(script: Script, root: None) -> None:
    script("apt-get", "echo 'E: no such package' >&2; exit 100")
    with pytest.raises(CommandFailed, match=r"exit status 100; its last words are:\nE: no such package"):
        apt.program("ip", "iproute2")


def test_a_package_without_the_program_is_an_error(script: Script, root: None) -> None:
    script("apt-get", "")
    with pytest.raises(PackageMissing, match="ip: is not in what apt installed as iproute2"):
        apt.program("ip", "iproute2")


TARGETS = """\
  main bookworm http://elsewhere.example/repo/
Other main bookworm http://other.example/
Debian main bookworm-updates http://debian.example/debian/
Debian main bookworm-security http://debian.example/debian-security/
Debian contrib bookworm http://debian.example/contrib/
Debian main bookworm http://debian.example/debian/
"""


def test_the_mirror_is_debians_and_no_other(script: Script, tmp_path: Path) -> None:
    (tmp_path / "targets").write_text(TARGETS)
    script("apt-get", "cat targets")
    assert apt.mirror() == "http://debian.example/debian"


def test_lists_are_fetched_where_there_are_none(script: Script, tmp_path: Path) -> None:
    (tmp_path / "targets").write_text(TARGETS)
    script("apt-get", 'case "$*" in *update*) touch fetched;; *) if [ -e fetched ]; then cat targets; fi;; esac')
    assert apt.mirror() == "http://debian.example/debian"


def test_another_distribution_is_refused(script: Script) -> None:
    script("apt-get", "echo 'Other main noble http://other.example/'")
    with pytest.raises(MirrorMissing, match="names no Debian mirror; run this on Debian"):
        apt.mirror()


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        pytest.param("", {}, id="none"),
        pytest.param("proxy='DIRECT'", {}, id="explicitly none"),
        pytest.param("proxy='http://cache:3142'", {"http_proxy": "http://cache:3142"}, id="one"),
    ],
)
def test_apts_proxy_is_handed_on(script: Script, configured: str, expected: dict[str, str]) -> None:
    script("apt-config", f'case "$*" in *http::*) echo "{configured}";; esac')
    assert apt.proxy_environment() == expected
