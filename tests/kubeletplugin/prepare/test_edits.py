"""The CDI spec of a claim: every mount, node and variable, and why each is there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fracgpu.cdi.discovery import DriverFiles, DriverLibrary
from fracgpu.driver.names import allocation_env_key
from fracgpu.kubeletplugin.errors import ClaimInvalid, ClaimRefused
from fracgpu.kubeletplugin.prepare.edits import _device_node, driver_edits, library_directories
from fracgpu.native.config_page import decode_config_page

GIB = 1024**3
V = "580.65.06"
UUID_0 = "GPU-11111111-1111-1111-1111-111111111111"
SHARE = "3f3b2c1a-0000-4000-8000-00000000000{}"
DIRECTORIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64")
RO = ["ro", "nosuid", "nodev", "rbind"]


def prepared(world: Any, *shares: dict[str, Any], **changes: Any) -> tuple[Any, dict[str, Any]]:
    ref = world.claim("c1", *shares, **changes)
    world.preparer().prepare(ref)
    return ref, json.loads(world.spec(ref))


def by_path(edits: dict[str, Any]) -> dict[str, str]:
    return {mount["containerPath"]: mount["hostPath"] for mount in edits["mounts"]}


def environment(edits: dict[str, Any]) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in edits["env"])


def test_the_shims_take_every_name_of_the_driver_libraries_in_every_default_directory(world: Any) -> None:
    _, spec = prepared(world)
    mounts = by_path(spec["containerEdits"])
    (digest,) = (path.name for path in (world.options.state_dir / "lib").iterdir())
    for directory in DIRECTORIES:
        for stem in ("libcuda.so", "libnvidia-ml.so"):
            for name in (stem, f"{stem}.1", f"{stem}.{V}"):
                assert mounts[f"{directory}/{name}"] == f"{world.options.state_dir}/lib/{digest}/{stem}.1"
    libraries = world.options.driver_root / "usr/lib/x86_64-linux-gnu"
    assert mounts["/run/fracgpu/driver/libcuda.so.1"] == f"{libraries}/libcuda.so.{V}"
    assert mounts["/run/fracgpu/driver/libnvidia-ml.so.1"] == f"{libraries}/libnvidia-ml.so.{V}"
    assert len(mounts) == 14
    assert all(mount["options"] == RO for mount in spec["containerEdits"]["mounts"])
    assert all(Path(host).is_file() for host in mounts.values())
    assert spec["containerEdits"]["env"] == ["NVIDIA_VISIBLE_DEVICES=void"]


def test_an_allocation_has_its_page_read_only_its_state_writable_and_its_gpu(world: Any) -> None:
    ref, spec = prepared(world)
    (device,) = spec["devices"]
    identifier = f"{ref.uid}-gpu-gpu-11111111-0"
    assert device["name"] == identifier
    inside = f"/run/fracgpu/allocations/{identifier}"
    config, state = device["containerEdits"]["mounts"]
    assert config == {
        "hostPath": f"{world.allocation(ref)}/config",
        "containerPath": f"{inside}/config",
        "options": ["ro", "nosuid", "nodev", "noexec", "rbind"],
    }
    assert state == {
        "hostPath": f"{world.allocation(ref)}/state",
        "containerPath": f"{inside}/state",
        "options": ["rw", "nosuid", "nodev", "noexec", "rbind"],
    }
    nodes = device["containerEdits"]["deviceNodes"]
    assert [node["path"] for node in nodes] == ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"]
    assert nodes[0]["hostPath"] == f"{world.options.dev_root}/dev/nvidia0"
    assert environment(device["containerEdits"]) == {
        allocation_env_key(identifier): f"gpu {UUID_0} 8192Mi 30",
        "CUDA_DEVICE_MEMORY_LIMIT_0": "8192m",
        "CUDA_DEVICE_SM_LIMIT_0": "30",
    }


def test_there_are_no_hooks_and_no_directories_mounted(world: Any) -> None:
    _, spec = prepared(world)
    assert '"hooks"' not in json.dumps(spec)
    every = [spec["containerEdits"], *(device["containerEdits"] for device in spec["devices"])]
    assert not [mount for edits in every for mount in edits["mounts"] if Path(mount["hostPath"]).is_dir()]


def test_other_libraries_come_under_all_their_names_from_where_the_runtime_sees_them() -> None:
    root = Path("/driver-root")
    driver = DriverFiles(
        root=root,
        version=V,
        cuda=root / f"usr/lib64/libcuda.so.{V}",
        nvml=root / f"usr/lib64/libnvidia-ml.so.{V}",
        libraries=(
            DriverLibrary(
                path=root / f"usr/lib64/libnvidia-nvvm.so.{V}", names=("libnvidia-nvvm.so.4", f"libnvidia-nvvm.so.{V}")
            ),
        ),
        nvidia_smi=root / "usr/bin/nvidia-smi",
    )
    edits = driver_edits(
        driver, host_root=Path("/"), library_directory=Path("/s/lib/abc"), directories=library_directories("x86_64")
    )
    mounts = {mount.container_path: mount.host_path for mount in edits.mounts}
    for directory in DIRECTORIES:
        assert mounts[f"{directory}/libnvidia-nvvm.so.4"] == f"/usr/lib64/libnvidia-nvvm.so.{V}"
        assert mounts[f"{directory}/libnvidia-nvvm.so.{V}"] == f"/usr/lib64/libnvidia-nvvm.so.{V}"
    assert mounts["/usr/bin/nvidia-smi"] == "/usr/bin/nvidia-smi"
    assert mounts["/run/fracgpu/driver/libcuda.so.1"] == f"/usr/lib64/libcuda.so.{V}"


@pytest.mark.parametrize(
    ("machine", "directories"),
    [
        ("x86_64", DIRECTORIES),
        ("aarch64", ("/usr/lib/aarch64-linux-gnu", "/usr/lib64")),
        ("riscv64", ("/usr/lib64",)),
    ],
)
def test_library_directories_follow_the_machine(machine: str, directories: tuple[str, ...]) -> None:
    assert library_directories(machine) == directories


def test_device_paths_are_equal_on_both_sides_when_the_device_root_is_the_hosts() -> None:
    assert _device_node("/dev/nvidia0", Path("/")).to_dict() == {"path": "/dev/nvidia0"}


def test_two_allocations_of_one_gpu_have_two_devices_and_two_indices(world: Any) -> None:
    shares = ({"share_id": SHARE.format(1)}, {"share_id": SHARE.format(1).replace("3f3b2c1a", "aaaaaaaa"), "cores": 0})
    ref, spec = prepared(world, *shares)
    assert [device["name"] for device in spec["devices"]] == [
        f"{ref.uid}-gpu-gpu-11111111-3f3b2c1a",
        f"{ref.uid}-gpu-gpu-11111111-aaaaaaaa",
    ]
    second = environment(spec["devices"][1]["containerEdits"])
    assert second["CUDA_DEVICE_MEMORY_LIMIT_1"] == "8192m"
    assert "CUDA_DEVICE_SM_LIMIT_1" not in second


def test_each_request_gets_only_its_own_device_and_the_sub_request_is_stripped(world: Any) -> None:
    ref = world.claim("c1", {"request": "a/large"}, {"request": "b", "device": "gpu-22222222"})
    first, second = world.preparer().prepare(ref).devices
    assert (first.request_names, first.cdi_device_ids) == (
        ("a",),
        (f"gpu.fracgpu.dev/claim={ref.uid}-a-gpu-11111111-0",),
    )
    assert (second.request_names, second.device) == (("b",), "gpu-22222222")
    devices = json.loads(world.spec(ref))["devices"]
    nodes = [device["containerEdits"]["deviceNodes"][0]["path"] for device in devices]
    assert nodes == ["/dev/nvidia0", "/dev/nvidia1"]


def test_devices_of_other_drivers_are_left_out_and_count_in_the_ordinal(world: Any) -> None:
    ref = world.claim("c1", {"driver": "nic.example.com", "device": "nic0"}, {"request": "gpu"})
    (device,) = world.preparer().prepare(ref).devices
    assert device.cdi_device_ids == (f"gpu.fracgpu.dev/claim={ref.uid}-gpu-gpu-11111111-1",)
    (spec_device,) = json.loads(world.spec(ref))["devices"]
    assert "CUDA_DEVICE_MEMORY_LIMIT_0" in environment(spec_device["containerEdits"])


UNLIMITED = [
    ("admin", {"admin": True, "memory": 0, "cores": 0, "slots": 0}, {}),
    ("enforcement-none", {}, {"class_config": {"enforcement": "None"}}),
    ("whole", {"memory": 44 * GIB, "cores": 0}, {"class_config": {"memory": "Whole"}}),
]


@pytest.mark.parametrize(("share", "changes"), [case[1:] for case in UNLIMITED], ids=[case[0] for case in UNLIMITED])
def test_without_a_limit_the_mounts_are_the_same_and_the_page_says_so(
    world: Any, share: dict[str, Any], changes: dict[str, Any]
) -> None:
    _, limited = prepared(world)
    world.preparer().unprepare(world.claim("c1"))
    ref, spec = prepared(world, share, **changes)
    assert spec["containerEdits"] == limited["containerEdits"]
    page = decode_config_page((world.allocation(ref) / "config").read_bytes())
    assert (page.memory_limit_bytes, page.cores_percent, page.observe) == (None, 0, True)
    (variable,) = environment(spec["devices"][0]["containerEdits"]).items()
    assert variable[1].startswith(f"gpu {UUID_0} 45056Mi ")


def test_admin_access_is_not_counted_and_fits_on_a_full_gpu(world: Any) -> None:
    preparer = world.preparer()
    admin = {"admin": True, "memory": 0, "cores": 0, "slots": 0}
    preparer.prepare(world.claim("full", {"memory": 44 * GIB, "cores": 100}))
    preparer.prepare(world.claim("admin", admin))
    preparer.prepare(world.claim("other-admin", admin))


def test_a_whole_gpu_leaves_no_room(world: Any) -> None:
    whole = {"memory": 44 * GIB, "cores": 0}
    world.preparer().prepare(world.claim("whole", whole, class_config={"memory": "Whole"}))
    with pytest.raises(ClaimRefused, match="free 0Mi of 45056Mi"):
        world.preparer().prepare(world.claim("c1", {"memory": 2**20, "cores": 0}))


@pytest.mark.parametrize(("policy", "cores"), [("Cap", 30), ("None", 0), (None, 30)])
def test_cores_are_capped_unless_the_class_only_reserves_them(world: Any, policy: str | None, cores: int) -> None:
    ref = world.claim(class_config={"coresPolicy": policy} if policy else None)
    world.preparer().prepare(ref)
    assert decode_config_page((world.allocation(ref) / "config").read_bytes()).cores_percent == cores


def test_what_the_scheduler_consumed_is_enforced(world: Any) -> None:
    world.configure(allocator="scheduler")
    consumed = {"memory": "8000Mi", "cores": "50", "slots": "1"}
    share = {"consumed": consumed, "share_id": SHARE.format(1)}
    ref = world.claim("c1", share, grant=False, class_config={"memory": "1Gi"})
    (device,) = world.preparer().prepare(ref).devices
    assert device.share_id == SHARE.format(1)
    page = decode_config_page((world.allocation(ref, "gpu-gpu-11111111-3f3b2c1a") / "config").read_bytes())
    assert (page.memory_limit_bytes, page.cores_percent) == (8000 * 2**20, 50)


def test_config_for_one_request_does_not_touch_another(world: Any, make_opaque: Any) -> None:
    ref = world.claim("c1", {"request": "a/x"}, {"request": "b"})
    parameters = {"apiVersion": "gpu.fracgpu.dev/v1alpha1", "kind": "FractionConfig", "coresPolicy": "None"}
    world.change(ref)["status"]["allocation"]["devices"]["config"].insert(
        0, make_opaque("FromClass", parameters, ["a"])
    )
    world.preparer().prepare(ref)
    cores = [
        decode_config_page((world.allocation(ref, suffix) / "config").read_bytes()).cores_percent
        for suffix in ("a-gpu-11111111-0", "b-gpu-11111111-1")
    ]
    assert cores == [0, 30]


def test_a_changed_driver_version_changes_the_spec(world: Any) -> None:
    ref, former = prepared(world)
    libraries = world.options.driver_root / "usr/lib/x86_64-linux-gnu"
    for stem in ("libcuda", "libnvidia-ml"):
        (libraries / f"{stem}.so.{V}").rename(libraries / f"{stem}.so.590.10.01")
        (libraries / f"{stem}.so.1").unlink()
    world.inventory.gpus = tuple(replace(gpu, driver_version="590.10.1") for gpu in world.inventory.gpus)
    world.preparer().prepare(ref)
    present = json.loads(world.spec(ref))
    assert "/usr/lib64/libcuda.so.590.10.01" in by_path(present["containerEdits"])
    assert present["devices"] == former["devices"]


def test_a_driver_root_that_the_runtime_sees_elsewhere(world: Any) -> None:
    world.options = replace(world.options, host_driver_root=Path("/host/driver"))
    _, spec = prepared(world)
    mounts = by_path(spec["containerEdits"])
    assert mounts["/run/fracgpu/driver/libcuda.so.1"] == f"/host/driver/usr/lib/x86_64-linux-gnu/libcuda.so.{V}"


def with_preload(world: Any) -> None:
    """Give the node an interceptor that can be strict; without, it is one of an earlier version."""
    natives = world.libraries[0].parent
    added = [natives / name for name in ("ld.so.preload", "libfracgpu-preload.so", "libfracgpu-preload-alias.so")]
    for path in added:
        path.write_bytes(b"preload")
    world.libraries = (*world.libraries, *added)


def test_a_strict_class_names_our_library_in_every_process(world: Any) -> None:
    with_preload(world)
    _, spec = prepared(world, class_config={"strict": True})
    mounts = by_path(spec["containerEdits"])
    (digest,) = (path.name for path in (world.options.state_dir / "lib").iterdir())
    stored = f"{world.options.state_dir}/lib/{digest}"
    assert mounts["/etc/ld.so.preload"] == f"{stored}/ld.so.preload"
    assert mounts["/run/fracgpu/preload/libcuda.so.1"] == f"{stored}/libfracgpu-preload.so"
    assert mounts["/run/fracgpu/preload/libcuda.so"] == f"{stored}/libfracgpu-preload-alias.so"
    assert len(mounts) == 17
    assert all(mount["options"] == RO for mount in spec["containerEdits"]["mounts"])
    assert all(Path(host).is_file() for host in mounts.values())


@pytest.mark.parametrize("config", [None, {"strict": False}])
def test_strict_is_off_unless_the_class_says_so(world: Any, config: dict[str, Any] | None) -> None:
    with_preload(world)
    _, spec = prepared(world, class_config=config)
    assert "/etc/ld.so.preload" not in by_path(spec["containerEdits"])


def test_a_claim_cannot_say_strict(world: Any) -> None:
    with pytest.raises(ClaimInvalid, match="FractionConfig field strict may only be set by a class"):
        world.preparer().prepare(world.claim(claim_config={"strict": False}))


def test_a_claim_that_was_prepared_with_an_earlier_interceptor_keeps_what_it_has(world: Any) -> None:
    """Its files have no strict mode; a spec that named them would keep its containers from starting."""
    ref, before = prepared(world, class_config={"strict": True})
    with_preload(world)
    world.preparer().prepare(ref)
    assert json.loads(world.spec(ref)) == before
    assert "/etc/ld.so.preload" not in by_path(before["containerEdits"])
