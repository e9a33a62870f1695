"""Cgroup paths as kubelets and runtimes write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.kubeletplugin.proof.cgroup import ContainerRef, parse_cgroup

UID = "0a1b2c3d-1111-2222-3333-444455556666"
UNDERSCORES = UID.replace("-", "_")
ID = "9f" * 32
SLICE = f"kubepods-burstable-pod{UNDERSCORES}.slice"

PATHS = {
    "v2 systemd containerd": f"0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/cri-containerd-{ID}.scope",
    "v2 systemd cri-o": f"0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/crio-{ID}.scope",
    "v2 cri-o with crun": f"0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/crio-{ID}.scope/container",
    "v2 systemd docker": f"0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/docker-{ID}.scope",
    "v2 cgroupfs": f"0::/kubepods/besteffort/pod{UID}/{ID}",
    "v2 guaranteed": f"0::/kubepods/pod{UID}/{ID}",
    "v1 systemd": f"3:memory:/x\n1:name=systemd:/kubepods.slice/kubepods-burstable.slice/{SLICE}/docker-{ID}.scope",
    "v1 cgroupfs": f"12:pids:/kubepods/burstable/pod{UID}/{ID}\n1:cpu,cpuacct:/kubepods/burstable/pod{UID}/{ID}",
    "hybrid": f"4:memory:/kubepods/burstable/pod{UID}/{ID}\n0::/",
    "kubelet in a container": f"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-{SLICE}/cri-containerd-{ID}.scope",
    "seen from another cgroup namespace": f"0::/../../{SLICE}/cri-containerd-{ID}.scope",
    "processes of the container in groups of its own": f"0::/kubepods/pod{UID}/{ID}/init/pod{'0' * 32}/{'0' * 64}",
}


@pytest.mark.parametrize("content", PATHS.values(), ids=PATHS)
def test_pod_and_container_are_found(content: str) -> None:
    assert parse_cgroup(content + "\n") == ContainerRef(UID, ID)


def test_a_static_pod_has_a_uid_without_dashes() -> None:
    assert parse_cgroup(f"0::/kubepods/pod{'ab' * 16}/{ID}\n") == ContainerRef("ab" * 16, ID)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "0::/\n",
        "0::/system.slice/sshd.service\n",
        f"0::/docker/{ID}\n",
        f"0::/kubepods/pod{UID}\n",
        f"0::/kubepods/pod{UID}/not-an-id/{ID}\n",
        f"0::/kubepods/podcast/{ID}\n",
    ],
)
def test_all_else_is_no_container(content: str) -> None:
    assert parse_cgroup(content) is None


@pytest.mark.parametrize("separator", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_a_group_whose_name_looks_like_another_line_is_not_one(separator: str) -> None:
    name = f"x{separator}0::"
    other = "ffffffff-ffff-ffff-ffff-ffffffffffff"
    content = f"0::/kubepods/pod{UID}/{ID}/{name}/kubepods/pod{other}/{'0' * 64}\n"
    assert parse_cgroup(content) == ContainerRef(UID, ID)


@given(st.text(max_size=200))
def test_no_text_makes_the_parser_fail(content: str) -> None:
    parse_cgroup(content)


@given(st.uuids(), st.binary(min_size=32, max_size=32), st.sampled_from(["", "/sub", f"/pod{UID}/{ID}"]))
def test_what_the_container_names_itself_does_not_count(uid: object, container: bytes, below: str) -> None:
    path = f"0::/kubepods/burstable/pod{uid}/{container.hex()}{below}"
    assert parse_cgroup(path) == ContainerRef(str(uid), container.hex())
