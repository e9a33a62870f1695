"""`fracgpu limits`: what holds now, and what may be changed on a node without asking anybody."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fracgpu.cli.main import main
from fracgpu.kubeletplugin.prepare.checkpoint import (
    AllocationRecord,
    Checkpoint,
    CheckpointStore,
    ClaimEntry,
    EntryState,
)
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.native.config_change import read_config_page
from fracgpu.native.config_page import ConfigPage, encode_config_page
from fracgpu.native.state_file import new_state_file

GIB = 1 << 30
GPU = "GPU-11111111-2222-3333-4444-555555555555"
Capture = pytest.CaptureFixture[str]


@dataclass
class Node:
    state: Path
    run: Path

    def page(self, identifier: str) -> Path:
        return self.run / "allocations" / identifier / "config"

    def limits(self, *arguments: str) -> int:
        return main(["limits", *arguments, "--state-dir", str(self.state), "--run-dir", str(self.run)])


RECORD = AllocationRecord(
    allocation_id="a-0",
    index=0,
    request="gpu",
    pool="n1",
    device="gpu-11111111",
    gpu_uuid=GPU,
    share_id=None,
    memory_bytes=8 * GIB,
    cores=30,
    slots=1,
    limited=True,
    admin=False,
)


def entry(name: str, *records: AllocationRecord, state: EntryState = EntryState.PREPARED) -> ClaimEntry:
    return ClaimEntry(
        claim_uid=f"uid-{name}", namespace="ns", name=name, state=state, library_digest="d" * 64, allocations=records
    )


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A claim with one allocation, one with two, one of a whole GPU, and one that is only being prepared."""
    made = Node(tmp_path / "state", tmp_path / "run")
    made.state.mkdir()
    whole = replace(RECORD, allocation_id="w-0", limited=False)
    two = (replace(RECORD, allocation_id="b-0"), replace(RECORD, allocation_id="b-1", index=1, cores=0))
    entries = [
        entry("one", RECORD),
        entry("two", *two),
        entry("whole", whole),
        entry("early", replace(RECORD, allocation_id="e-0"), state=EntryState.PREPARING),
    ]
    CheckpointStore(made.state / "checkpoint.json", Files()).save(Checkpoint({one.claim_uid: one for one in entries}))
    for record in (RECORD, *two, whole):
        path = made.page(record.allocation_id)
        path.parent.mkdir(parents=True)
        page = ConfigPage(
            allocation_id=record.allocation_id,
            device_uuid=GPU,
            memory_limit_bytes=record.memory_bytes if record.limited else None,
            cores_percent=record.cores,
            observe=not record.limited,
        )
        path.write_bytes(encode_config_page(page))
        (path.parent / "state").write_bytes(new_state_file(GPU))
    return made


def test_show_tells_what_holds_and_what_was_prepared(node: Node, capsys: Capture) -> None:
    assert node.limits("set", "ns/one", "--memory", "6Gi", "--cores", "10") == 0
    assert node.limits("suspend", "uid-two") == 0
    capsys.readouterr()
    assert node.limits("show") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["CLAIM", "ALLOCATION", "GPU", "MEMORY", "PREPARED", "CORES", "USED", "PROCESSES", "STATE"],
        ["ns/one", "a-0", "gpu-11111111", "6144Mi", "8192Mi", "10", "0Mi", "0", "running"],
        ["ns/two", "b-0", "gpu-11111111", "8192Mi", "8192Mi", "30", "0Mi", "0", "suspended"],
        ["ns/two", "b-1", "gpu-11111111", "8192Mi", "8192Mi", "-", "0Mi", "0", "suspended"],
        ["ns/whole", "w-0", "gpu-11111111", "-", "-", "30", "0Mi", "0", "running"],
    ]
    assert node.limits("show", "ns/one", "-o", "json") == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["memoryLimitBytes"], one["preparedMemoryBytes"], one["suspended"]) == (6 * GIB, 8 * GIB, False)


def test_limits_go_down_and_up_again_to_what_was_prepared(node: Node) -> None:
    before = node.page("a-0").stat().st_ino
    for memory in ("1Gi", "8Gi"):
        assert node.limits("set", "a-0", "--memory", memory) == 0
    page = read_config_page(node.page("a-0"))
    assert (page.memory_limit_bytes, page.cores_percent, page.generation) == (8 * GIB, 30, 6)
    assert node.page("a-0").stat().st_ino == before


def test_suspend_and_resume_are_for_all_of_a_claim(node: Node) -> None:
    assert node.limits("suspend", "ns/two") == 0
    assert [read_config_page(node.page(one)).suspend for one in ("a-0", "b-0", "b-1")] == [False, True, True]
    assert node.limits("resume", "b-1") == 0
    assert [read_config_page(node.page(one)).suspend for one in ("b-0", "b-1")] == [True, False]
    assert node.limits("suspend", "ns/whole") == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("a-0", "--memory", "9Gi"), "was prepared with 8192Mi; more may belong to others"),
        (("a-0", "--cores", "31"), "was prepared with 30 percent of the cores; more may belong to others"),
        (("a-0", "--memory", "1Gi", "--cores", "31"), "was prepared with 30 percent"),
        (("a-0",), "has nothing to set; give --memory or --cores"),
        (("ns/two", "--memory", "1Gi"), "has several allocations; name one of b-0, b-1"),
        (("ns/whole", "--memory", "1Gi"), "has no limits: it is a whole GPU or admin access; use suspend"),
        (("ns/early", "--memory", "1Gi"), "is prepared on this node under no name"),
        (("nobody", "--memory", "1Gi"), "is prepared on this node under no name"),
    ],
)
def test_what_may_not_be_is_refused_and_nothing_changes(
    node: Node, capsys: Capture, arguments: tuple[str, ...], text: str
) -> None:
    before = {path: path.read_bytes() for path in node.run.rglob("config")}
    assert node.limits("set", *arguments) == 1
    assert text in capsys.readouterr().err
    assert {path: path.read_bytes() for path in node.run.rglob("config")} == before


@pytest.mark.parametrize("arguments", [("--memory", "0"), ("--memory", "much"), ("--cores", "0"), ("--cores", "101")])
def test_wrong_usage(node: Node, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as left:
        node.limits("set", "a-0", *arguments)
    assert left.value.code == 2


def test_another_machine_than_the_node(tmp_path: Path, capsys: Capture) -> None:
    assert Node(tmp_path, tmp_path).limits("show") == 1
    assert "run this on the claim's node, as root" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_damaged_page_and_checkpoint_are_said(node: Node, capsys: Capture) -> None:
    node.page("a-0").write_bytes(b"")
    assert node.limits("suspend", "a-0") == 3
    assert "config page" in capsys.readouterr().err
    node.page("b-0").unlink()
    assert node.limits("show") == 0
    states = [line.split(maxsplit=8)[8] for line in capsys.readouterr().out.splitlines()[1:]]
    assert states == ["no valid page", "no valid page", "running", "running"]
    (node.state / "checkpoint.json").write_text("{")
    assert node.limits("show") == 3
