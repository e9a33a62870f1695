import json

import pytest

from fracgpu.cdi.spec import CdiDevice, CdiSpec, ContainerEdits, DeviceNode, Mount

EDITS = ContainerEdits(
    env=("A=1",),
    device_nodes=(DeviceNode(path="/dev/nvidia0"), DeviceNode(path="/dev/nvidiactl", host_path="/root/dev/nvidiactl")),
    mounts=(Mount(host_path="/h/lib", container_path="/c/lib", options=("ro", "rbind")),),
)


def spec(device_class: str = "claim", common: ContainerEdits = EDITS) -> CdiSpec:
    devices = (CdiDevice(name="0a-b", edits=ContainerEdits(env=("B=2",))),)
    return CdiSpec(vendor="gpu.fracgpu.dev", device_class=device_class, devices=devices, edits=common)


def test_json_has_the_field_names_of_the_cdi_specification() -> None:
    assert json.loads(spec().to_json()) == {
        "cdiVersion": "0.5.0",
        "kind": "gpu.fracgpu.dev/claim",
        "containerEdits": {
            "env": ["A=1"],
            "deviceNodes": [{"path": "/dev/nvidia0"}, {"path": "/dev/nvidiactl", "hostPath": "/root/dev/nvidiactl"}],
            "mounts": [{"hostPath": "/h/lib", "containerPath": "/c/lib", "options": ["ro", "rbind"]}],
        },
        "devices": [{"name": "0a-b", "containerEdits": {"env": ["B=2"]}}],
    }


def test_empty_edits_are_left_out() -> None:
    document = json.loads(spec(common=ContainerEdits()).to_json())
    assert "containerEdits" not in document
    assert document["devices"][0]["containerEdits"] == {"env": ["B=2"]}


def test_encoding_is_deterministic_and_sorted() -> None:
    encoded = spec().to_json()
    assert encoded == spec().to_json()
    assert encoded == json.dumps(json.loads(encoded), sort_keys=True, separators=(",", ":")).encode() + b"\n"


def test_a_host_path_equal_to_the_path_is_not_written() -> None:
    assert DeviceNode(path="/dev/nvidia0", host_path="/dev/nvidia0").to_dict() == {"path": "/dev/nvidia0"}


@pytest.mark.parametrize(("device_class", "version"), [("claim", "0.5.0"), ("a.b", "0.6.0")], ids=["floor", "dot"])
def test_version_is_the_lowest_that_covers_the_fields(device_class: str, version: str) -> None:
    assert spec(device_class).cdi_version == version
