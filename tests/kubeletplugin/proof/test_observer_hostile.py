"""Containers that want to look enforced, or like somebody else: what they can do without any right, or with mounts."""

import fcntl
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.proof import observed_files as observer_files
from fracgpu.native import abi
from fracgpu.native.state_file import read_state_file
from tests.kubeletplugin.proof.observer_setting import GIB, SLOT, Setting


@pytest.fixture
def setting(world: Any) -> Setting:
    return Setting(world)


@pytest.fixture
def claim(setting: Setting) -> Callable[..., ClaimRef]:
    def prepared(name: str = "c1", *shares: dict[str, Any], **changes: Any) -> ClaimRef:
        ref: ClaimRef = setting.world.claim(name, *shares, **changes)
        setting.preparer.prepare(ref)
        return ref

    return prepared


def test_a_mount_point_of_a_containers_own_making_does_not_get_it_away(setting: Setting, claim: Any) -> None:
    """Whoever may make mounts may give them any name; the file decides, and the container."""
    ref, other = claim(), claim("c2")
    setting.process(1, ref, container="a")
    bypassing = setting.process(2, container="a", shims=False)
    with (bypassing / "mountinfo").open("a") as lines:
        for name in ("bogus", setting.world.allocation(other).name):
            lines.write(f"77 1 0:99 / /run/fracgpu/allocations/{name}/config rw - tmpfs t rw\n")
    seen = setting.look()
    assert (seen["c1"].processes, seen["c2"].processes) == (2, 0)
    assert seen["c1"].enforced.reason == "LibraryReplaced"


def test_a_page_that_is_mounted_elsewhere_shows_whose_process_it_is(setting: Setting, claim: Any) -> None:
    ref = claim()
    place = setting.process(1, ref)
    mounts = (place / "mountinfo").read_text()
    (place / "mountinfo").write_text(mounts.replace(" /run/fracgpu/", " /run/moved/"))
    assert setting.look()["c1"].processes == 1
    assert setting.verdict() == "False/ConfigPageReplaced"


def test_a_page_below_ours_that_the_container_wrote_is_found(setting: Setting, claim: Any) -> None:
    """The interceptor adds up the limits of all pages in the directory, so one more would raise the limit."""
    ref = claim()
    place = setting.process(1, ref)
    directory = place / "root" / "run" / "fracgpu" / "allocations"
    (directory / setting.world.allocation(ref).name).mkdir(parents=True)
    (directory / ".hidden").mkdir()
    assert setting.verdict() == "False/LibraryNotLoaded"
    (directory / "zz").mkdir()
    assert setting.verdict() == "False/ConfigPageReplaced"
    assert "/run/fracgpu/allocations/zz/config" in setting.look()["c1"].enforced.message


def test_a_page_that_is_covered_by_another_file_is_found(setting: Setting, claim: Any) -> None:
    ref = claim()
    place = setting.process(1, ref)
    with (place / "mountinfo").open("a") as lines:
        name = setting.world.allocation(ref).name
        lines.write(f"900 10 0:99 /forged /run/fracgpu/allocations/{name}/config rw - tmpfs t rw\n")
    assert setting.verdict() == "False/ConfigPageReplaced"


def test_more_names_than_anybody_needs_are_not_looked_through(setting: Setting, claim: Any) -> None:
    place = setting.process(1, claim())
    directory = place / "root" / "run" / "fracgpu" / "allocations"
    for number in range(1024):
        (directory / f".{number}").mkdir(parents=True)
    assert setting.verdict() == "False/ConfigPageReplaced"


def test_a_process_with_too_many_mounts_is_not_called_enforced(setting: Setting, claim: Any) -> None:
    place = setting.process(1, claim(), container="a")
    setting.look()
    with (place / "mountinfo").open("a") as lines:
        lines.write("".join(f"9 1 0:9 / /mnt/{n} rw - tmpfs t rw\n" for n in range(40_000)))
    assert setting.verdict() == "False/LibraryNotLoaded"


def test_charges_that_a_container_makes_up_count_against_it(setting: Setting, claim: Any) -> None:
    """Absurd counters in a slot whose lock it holds are cut to what a machine can hold, and are its own."""
    ref, _ = claim(), claim("c2")
    state = setting.world.allocation(ref) / "state"
    rogue = os.open(state, os.O_RDWR)
    try:
        forged = struct.pack("<IiQQQQ", abi.SLOT_LIVE, 1, 0, 0, 2**64 - 1, 2**63 - 1)
        os.pwrite(rogue, forged, abi.STATE_HEADER_BYTES)
        os.pwrite(rogue, bytes(8), 24)
        fcntl.fcntl(rogue, fcntl.F_OFD_SETLK, struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        seen = setting.look()
    finally:
        os.close(rogue)
    assert (seen["c1"].used_bytes, seen["c1"].within_limit.reason) == (1 << 48, "OverLimit")
    assert (seen["c2"].used_bytes, seen["c2"].within_limit.reason) == (0, "WithinLimit")


def test_who_keeps_the_account_but_is_not_the_claims_is_said(
    setting: Setting, claim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim()
    place = setting.process(4711)
    taken = replace(SLOT, pid_namespace_inode=(place / "ns" / "pid").stat().st_ino)

    def read(path: Path) -> Any:
        return replace(read_state_file(path), processes=(taken,), used_bytes=GIB)

    monkeypatch.setattr(observer_files, "read_state_file", read)
    assert setting.verdict() == "Unknown/ProcessNotAttributed"
    assert "(PID 4711)" in setting.look()["c1"].enforced.message
