"""What is told of a file that says nothing."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from fracgpu.kubeletplugin.proof.evidence import FileTrouble, Trouble
from fracgpu.kubeletplugin.proof.observed_files import read_account, read_page
from fracgpu.native.config_page import ConfigPage, encode_config_page
from fracgpu.native.state_file import StateSnapshot, new_state_file

GPU = "GPU-11111111-2222-3333-4444-555555555555"
PAGE = ConfigPage(allocation_id="a", device_uuid=GPU, memory_limit_bytes=1 << 30, cores_percent=0)


def with_version(content: bytes, version: int) -> bytes:
    return content[:8] + version.to_bytes(4, "little") + content[12:]


def test_what_is_right_is_read(tmp_path: Path) -> None:
    (tmp_path / "config").write_bytes(encode_config_page(PAGE))
    (tmp_path / "state").write_bytes(new_state_file(GPU))
    assert read_page(tmp_path / "config") == PAGE
    assert isinstance(read_account(tmp_path / "state", GPU.upper().replace("GPU", "GPU")), StateSnapshot)


BROKEN = {
    "cut short": (new_state_file(GPU)[:100], Trouble.DAMAGED),
    "empty": (b"", Trouble.DAMAGED),
    "another magic": (b"x" + new_state_file(GPU)[1:], Trouble.DAMAGED),
    "another version": (with_version(new_state_file(GPU), 9), Trouble.OTHER_VERSION),
    "another GPU": (new_state_file(GPU[:-1] + "6"), Trouble.DAMAGED),
}


@pytest.mark.parametrize(("content", "trouble"), BROKEN.values(), ids=BROKEN)
def test_a_broken_account(tmp_path: Path, content: bytes, trouble: Trouble) -> None:
    (tmp_path / "state").write_bytes(content)
    found = read_account(tmp_path / "state", GPU)
    assert isinstance(found, FileTrouble)
    assert found.kind is trouble
    assert found.what


def test_an_account_that_is_something_else(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "state")
    found = read_account(tmp_path / "state", GPU)
    assert found == FileTrouble(Trouble.DAMAGED, "is not a regular file")


def test_what_is_not_there(tmp_path: Path) -> None:
    assert read_account(tmp_path / "state", GPU) == FileTrouble(Trouble.MISSING, "is not there")
    assert read_page(tmp_path / "config") == FileTrouble(Trouble.MISSING, "is not there")


def test_what_can_not_be_read_just_now(tmp_path: Path) -> None:
    for read in (lambda path: read_account(path, GPU), read_page):
        found = read(tmp_path / ("n" * 300))
        assert isinstance(found, FileTrouble)
        assert (found.kind, "File name too long" in found.what) == (Trouble.UNREADABLE, True)


def test_a_broken_page(tmp_path: Path) -> None:
    path = tmp_path / "config"
    for content, trouble in (
        (b"", Trouble.DAMAGED),
        (with_version(encode_config_page(PAGE), 2), Trouble.OTHER_VERSION),
        (encode_config_page(replace(PAGE, generation=4))[:4000], Trouble.DAMAGED),
    ):
        path.write_bytes(content)
        found = read_page(path)
        assert isinstance(found, FileTrouble)
        assert found.kind is trouble
