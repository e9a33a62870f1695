"""Reading CDI as a container runtime does."""

import json
from pathlib import Path
from typing import Any

import pytest

from fracgpu.sim.node.cdi_registry import CdiRegistry, ContainerEdits, Mount
from fracgpu.sim.node.errors import CdiInvalid, CdiUnresolvable

KIND = "vendor.example/class"


def spec(*devices: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"cdiVersion": "0.5.0", "kind": KIND, "devices": list(devices), **changes}


def device(name: str, **edits: Any) -> dict[str, Any]:
    return {"name": name, "containerEdits": edits}


def write(directory: Path, name: str, document: object) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(json.dumps(document))
    return path


def test_edits_of_a_device_are_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        "a.json",
        spec(
            device(
                "d",
                env=["A=1=2"],
                mounts=[{"hostPath": "/h", "containerPath": "/c", "options": ["ro", "bind"]}],
                deviceNodes=[{"path": "/dev/nvidia0", "hostPath": "/x/dev/nvidia0"}],
                hooks=[{"hookName": "createContainer", "path": "/hook"}],
            )
        ),
    )
    edits = CdiRegistry([tmp_path]).resolve([f"{KIND}=d"])
    assert edits == ContainerEdits(
        env={"A": "1=2"},
        mounts=(Mount("/h", "/c", ("ro", "bind")),),
        device_nodes=("/dev/nvidia0",),
        hooks=("createContainer /hook",),
    )
    assert edits.mounts[0].read_only


def test_later_devices_override_and_mounts_are_sorted_by_depth(tmp_path: Path) -> None:
    mount = {"hostPath": "/first", "containerPath": "/a/b/c"}
    write(
        tmp_path,
        "a.json",
        spec(
            device("one", env=["A=1", "B=1"], mounts=[mount, {"hostPath": "/h", "containerPath": "/z/y/x/w"}]),
            device(
                "two", env=["A=2"], mounts=[{**mount, "hostPath": "/second"}, {"hostPath": "/r", "containerPath": "/a"}]
            ),
            containerEdits={"env": ["A=0", "C=0"]},
        ),
    )
    edits = CdiRegistry([tmp_path]).resolve([f"{KIND}=one", f"{KIND}=two"])
    assert edits.env == {"A": "2", "B": "1", "C": "0"}
    assert [(one.host_path, one.container_path) for one in edits.mounts] == [
        ("/r", "/a"),
        ("/second", "/a/b/c"),
        ("/h", "/z/y/x/w"),
    ]


def test_no_device_is_no_edit(tmp_path: Path) -> None:
    assert CdiRegistry([tmp_path / "absent"]).resolve([]) == ContainerEdits()


def test_an_unknown_device_is_unresolvable(tmp_path: Path) -> None:
    write(tmp_path, ".hidden.json", spec(device("d")))
    write(tmp_path, "d.json.tmp", spec(device("d")))
    with pytest.raises(CdiUnresolvable, match=f"{KIND}=d"):
        CdiRegistry([tmp_path]).resolve([f"{KIND}=d"])


def test_the_same_device_in_two_files_conflicts(tmp_path: Path) -> None:
    write(tmp_path, "a.json", spec(device("d")))
    write(tmp_path, "b.json", spec(device("d")))
    with pytest.raises(CdiUnresolvable, match=r"conflict: named by .*a.json and .*b.json"):
        CdiRegistry([tmp_path]).resolve([f"{KIND}=d"])


def test_the_later_directory_wins(tmp_path: Path) -> None:
    write(tmp_path / "low", "a.json", spec(device("d", env=["A=low"])))
    write(tmp_path / "high", "a.json", spec(device("d", env=["A=high"])))
    edits = CdiRegistry([tmp_path / "low", tmp_path / "high"]).resolve([f"{KIND}=d"])
    assert edits.env == {"A": "high"}


@pytest.mark.parametrize(
    "document",
    [
        "no object",
        spec(),
        spec(device("d"), device("d")),
        spec(device("-d")),
        spec(device("d"), kind="noclass"),
        spec(device("d"), kind="1v/c"),
        spec(device("d"), cdiVersion="new"),
        spec(device("d"), extra=1),
        spec(device("d", unknown=1)),
        spec(device("d", env=["novalue"])),
        spec(device("d", mounts=[{"hostPath": "h", "containerPath": "/c"}])),
        spec(device("d", mounts=[{"hostPath": "/h"}])),
    ],
    ids=[
        "not an object",
        "no device",
        "device twice",
        "bad name",
        "no class",
        "bad vendor",
        "bad version",
        "unknown field",
        "unknown edit",
        "env without value",
        "relative path",
        "half a mount",
    ],
)
def test_what_is_not_cdi_is_refused_by_file_name(tmp_path: Path, document: object) -> None:
    write(tmp_path, "bad.json", document)
    with pytest.raises(CdiInvalid, match=r"bad\.json"):
        CdiRegistry([tmp_path]).resolve([f"{KIND}=d"])


def test_a_broken_file_does_not_harm_devices_of_others(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    write(tmp_path, "good.json", spec(device("d", env=["A=1"])))
    assert CdiRegistry([tmp_path]).resolve([f"{KIND}=d"]).env == {"A": "1"}
