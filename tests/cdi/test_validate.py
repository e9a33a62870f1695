from dataclasses import replace
from typing import TypedDict, Unpack

import pytest

from fracgpu.cdi.errors import CdiSpecInvalid
from fracgpu.cdi.spec import CdiDevice, CdiSpec, ContainerEdits, DeviceNode, Mount
from fracgpu.cdi.validate import validate

KIND = "gpu.fracgpu.dev/claim"
MOUNT = Mount(host_path="/h", container_path="/c", options=("ro",))


class Edits(TypedDict, total=False):
    env: tuple[str, ...]
    device_nodes: tuple[DeviceNode, ...]
    mounts: tuple[Mount, ...]


def device(name: str = "d0", **edits: Unpack[Edits]) -> CdiDevice:
    complete: Edits = {"env": ("A=1",), **edits}
    return CdiDevice(name=name, edits=ContainerEdits(**complete))


GOOD = CdiSpec(vendor="gpu.fracgpu.dev", device_class="claim", devices=(device(mounts=(MOUNT,)),))


def with_device(**edits: Unpack[Edits]) -> CdiSpec:
    return replace(GOOD, devices=(device(**edits),))


def with_mount(host: str = "/h", container: str = "/c") -> CdiSpec:
    return with_device(mounts=(Mount(host_path=host, container_path=container, options=()),))


def test_a_good_spec_passes() -> None:
    validate(GOOD)


@pytest.mark.parametrize("name", ["0", "a", "9f-x.y_z:1", "A" * 200], ids=["digit", "letter", "all-characters", "long"])
def test_device_names_that_cdi_allows_pass(name: str) -> None:
    validate(replace(GOOD, devices=(device(name),)))


WRONG = [
    ("vendor", replace(GOOD, vendor="1gpu"), "vendor '1gpu' must start with a letter"),
    ("vendor-end", replace(GOOD, vendor="gpu."), "vendor 'gpu.' must start with a letter"),
    ("class-slash", replace(GOOD, device_class="a/b"), "class 'a/b' must start with a letter"),
    ("class-empty", replace(GOOD, device_class=""), "class '' must start with a letter"),
    ("no-device", replace(GOOD, devices=()), "has no device"),
    ("name-slash", replace(GOOD, devices=(device("a/b"),)), "device name 'a/b' may hold"),
    ("name-end", replace(GOOD, devices=(device("a-"),)), "device name 'a-' may hold"),
    ("name-empty", replace(GOOD, devices=(device(""),)), "device name '' may hold"),
    ("name-newline", replace(GOOD, devices=(device("a\n"),)), "device name 'a\\n' may hold"),
    ("no-edits", replace(GOOD, devices=(CdiDevice(name="x", edits=ContainerEdits()),)), f"{KIND}=x: has no edits"),
    ("name-twice", replace(GOOD, devices=(device("x"), device("x", env=("B=1",)))), "device name 'x' appears more"),
    ("env-no-equals", with_device(env=("A",)), "env 'A' is not printable KEY=VALUE"),
    ("env-no-key", with_device(env=("=1",)), "env '=1' is not printable KEY=VALUE"),
    ("env-newline", with_device(env=("A=1\n2",)), "env 'A=1\\n2' is not printable KEY=VALUE"),
    ("env-twice", with_device(env=("A=1", "A=2")), "env key 'A' appears more than once"),
    ("host-relative", with_mount(host="h"), "mount hostPath 'h' is not a normal absolute path"),
    ("host-dots", with_mount(host="/a/../b"), "mount hostPath '/a/../b' is not a normal absolute path"),
    ("container-relative", with_mount(container="c"), "mount containerPath 'c' is not a normal absolute path"),
    ("container-slashes", with_mount(container="//c"), "mount containerPath '//c' is not a normal absolute path"),
    ("container-end", with_mount(container="/c/"), "mount containerPath '/c/' is not a normal absolute path"),
    ("container-nul", with_mount(container="/c\0"), "is not a normal absolute path"),
    ("mount-twice", with_device(mounts=(MOUNT, replace(MOUNT, host_path="/x"))), "containerPath '/c' appears more"),
    (
        "mount-twice-in-two-devices",
        replace(GOOD, devices=(device("x", mounts=(MOUNT,)), device("y", env=("B=1",), mounts=(MOUNT,)))),
        "containerPath '/c' appears more than once",
    ),
    (
        "mount-also-common",
        replace(GOOD, edits=ContainerEdits(mounts=(MOUNT,))),
        "containerPath '/c' appears more than once",
    ),
    ("node-relative", with_device(device_nodes=(DeviceNode(path="dev"),)), "device node path 'dev' is not a normal"),
    (
        "node-host-relative",
        with_device(device_nodes=(DeviceNode(path="/dev/x", host_path="x"),)),
        "device node hostPath 'x' is not a normal",
    ),
    (
        "node-twice",
        with_device(device_nodes=(DeviceNode(path="/dev/x"), DeviceNode(path="/dev/x"))),
        "device node path '/dev/x' appears more than once",
    ),
]


@pytest.mark.parametrize(("spec", "text"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_wrong_specs_are_refused_by_name(spec: CdiSpec, text: str) -> None:
    with pytest.raises(CdiSpecInvalid) as refused:
        validate(spec)
    assert text in str(refused.value)
    assert "report this as a defect of fracgpu" in str(refused.value)


def test_two_allocations_of_one_gpu_may_name_the_same_node() -> None:
    nodes = (DeviceNode(path="/dev/nvidia0"),)
    validate(replace(GOOD, devices=(device("x", device_nodes=nodes), device("y", env=("B=1",), device_nodes=nodes))))
