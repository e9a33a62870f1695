from decimal import Decimal
from pathlib import Path

import pytest

from fracgpu.driver.errors import OptionInvalid
from fracgpu.kubeletplugin.options import PluginOptions, check_directories


def test_defaults_are_a_nodes_standard_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_NAME", "n1")
    monkeypatch.setattr("fracgpu.kubeletplugin.options.find_kubelet_root", lambda _: Path("/var/lib/kubelet"))
    assert PluginOptions.from_argv([]) == PluginOptions(
        node_name="n1",
        pod_uid="",
        kubeconfig=None,
        allocator="controller",
        host_root=Path("/"),
        find_driver_root=True,
        driver_root=Path("/"),
        host_driver_root=None,
        dev_root=Path("/"),
        kubelet_root=Path("/var/lib/kubelet"),
        plugin_dir=Path("/var/lib/kubelet/plugins/gpu.fracgpu.dev"),
        registry_dir=Path("/var/lib/kubelet/plugins_registry"),
        cdi_dir=Path("/var/run/cdi"),
        state_dir=Path("/var/lib/fracgpu"),
        run_dir=Path("/run/fracgpu"),
        memory_scale=Decimal(1),
        cores_scale=Decimal(1),
        slots=10,
        http_address="0.0.0.0",
        http_port=None,
        log_level="info",
        log_json=False,
    )


def test_every_option_is_taken() -> None:
    argv = [
        "--node-name=gpu-1.example.com",
        "--pod-uid=u-1",
        "--kubeconfig=/k",
        "--allocator=scheduler",
        "--host-root=/h",
        "--driver-root=/d",
        "--host-driver-root=/",
        "--dev-root=/v",
        "--kubelet-root=/l",
        "--plugin-dir=/p",
        "--registry-dir=/r",
        "--cdi-dir=/c",
        "--state-dir=/s",
        "--run-dir=/t",
        "--memory-scale=1.5",
        "--cores-scale=2",
        "--slots=4",
        "--http-address=::1",
        "--http-port=0",
        "--log-level=debug",
        "--log-json",
    ]
    options = PluginOptions.from_argv(argv)
    assert options == PluginOptions(
        node_name="gpu-1.example.com",
        pod_uid="u-1",
        kubeconfig=Path("/k"),
        allocator="scheduler",
        host_root=Path("/h"),
        find_driver_root=False,
        driver_root=Path("/d"),
        host_driver_root=Path("/"),
        dev_root=Path("/v"),
        kubelet_root=Path("/l"),
        plugin_dir=Path("/p"),
        registry_dir=Path("/r"),
        cdi_dir=Path("/c"),
        state_dir=Path("/s"),
        run_dir=Path("/t"),
        memory_scale=Decimal("1.5"),
        cores_scale=Decimal(2),
        slots=4,
        http_address="::1",
        http_port=0,
        log_level="debug",
        log_json=True,
    )
    assert options.driver_root_on_host == Path("/")
    assert PluginOptions(node_name="n1", driver_root=Path("/d")).driver_root_on_host == Path("/d")


def test_the_environment_stands_in_for_the_pods_own_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_NAME", "n2")
    monkeypatch.setenv("POD_UID", "0f3e-1")
    options = PluginOptions.from_argv([])
    assert (options.node_name, options.pod_uid) == ("n2", "0f3e-1")
    assert PluginOptions.from_argv(["--pod-uid="]).pod_uid == ""


ROOTS = [
    ("nothing", [], "/var/lib/kubelet"),
    ("usual", ["var/lib/kubelet"], "/var/lib/kubelet"),
    ("k0s", ["var/lib/k0s/kubelet"], "/var/lib/k0s/kubelet"),
    ("microk8s", ["var/snap/microk8s/common/var/lib/kubelet"], "/var/snap/microk8s/common/var/lib/kubelet"),
    ("empty-leftover", ["var/lib/kubelet", "var/lib/k0s/kubelet/plugins_registry"], "/var/lib/k0s/kubelet"),
    ("two-empty", ["var/lib/kubelet", "var/lib/k0s/kubelet"], "/var/lib/kubelet"),
]


@pytest.mark.parametrize(("present", "root"), [case[1:] for case in ROOTS], ids=[case[0] for case in ROOTS])
def test_the_kubelets_directories_are_those_of_the_node(tmp_path: Path, present: list[str], root: str) -> None:
    for directory in present:
        (tmp_path / directory).mkdir(parents=True)
    options = PluginOptions.from_argv(["--node-name=n1", f"--host-root={tmp_path}"])
    assert options.kubelet_root == Path(root)
    assert options.plugin_dir == Path(root) / "plugins/gpu.fracgpu.dev"
    assert options.registry_dir == Path(root) / "plugins_registry"


def test_a_given_kubelet_root_moves_what_is_not_given() -> None:
    options = PluginOptions.from_argv(["--node-name=n1", "--kubelet-root=/k", "--registry-dir=/r"])
    assert options.plugin_dir == Path("/k/plugins/gpu.fracgpu.dev")
    assert options.registry_dir == Path("/r")


WRONG = [
    ("no-node", ["--node-name="], "--node-name: '' is not allowed; give the name of this node's Node object"),
    ("node-upper-case", ["--node-name=N1"], "--node-name: 'N1' is not allowed"),
    ("node-slash", ["--node-name=a/b"], "--node-name: 'a/b' is not allowed"),
    ("node-long", ["--node-name=" + "a" * 254], "--node-name: '"),
    ("allocator", ["--allocator=me"], "--allocator: invalid choice: 'me'"),
    *(
        (flag, [f"--{flag}=x/y"], f"--{flag}: 'x/y' is not allowed; give an absolute path without ..")
        for flag in (
            [
                "kubeconfig",
                "host-root",
                "driver-root",
                "dev-root",
                "kubelet-root",
                "plugin-dir",
                "registry-dir",
                "cdi-dir",
                "state-dir",
                "run-dir",
            ]
        )
    ),
    ("host-driver-root", ["--driver-root=/", "--host-driver-root=x/y"], "--host-driver-root: 'x/y' is not allowed"),
    (
        "host-driver-root-alone",
        ["--host-driver-root=/d"],
        "--host-driver-root: '/d' is not allowed; give --driver-root",
    ),
    ("pod-uid", ["--pod-uid=a/b"], "--pod-uid: 'a/b' is not allowed; give metadata.uid of this pod"),
    ("pod-uid-long", ["--pod-uid=" + "a" * 129], "--pod-uid: '"),
    ("http-address", ["--http-address=host"], "--http-address: 'host' is not allowed; give an IP address"),
    ("http-port", ["--http-port=65536"], "--http-port: '65536' is not allowed; give 0..65535"),
    ("http-port-negative", ["--http-port=-1"], "--http-port: '-1' is not allowed"),
    ("dots", ["--run-dir=/run/../etc"], "--run-dir: '/run/../etc' is not allowed"),
    ("memory-scale-below", ["--memory-scale=0.9"], "--memory-scale: '0.9' is not a number >= 1; set 1"),
    ("memory-scale-nan", ["--memory-scale=NaN"], "--memory-scale: 'NaN' is not a number >= 1"),
    ("memory-scale-inf", ["--memory-scale=inf"], "--memory-scale: 'Infinity' is not a number >= 1"),
    ("memory-scale-text", ["--memory-scale=x"], "--memory-scale: 'x' is not a decimal number; see --help"),
    ("cores-scale-below", ["--cores-scale=0"], "--cores-scale: '0' is not a number >= 1"),
    ("cores-scale-not-whole", ["--cores-scale=1.005"], "--cores-scale: 100 x 1.005 is not whole"),
    ("memory-scale-huge", ["--memory-scale=1e9"], "--memory-scale: '1E+9' is more than 1000; give a small"),
    ("cores-scale-overflow", ["--cores-scale=1e999999"], "--cores-scale: '1E+999999' is more than 1000"),
    ("slots-zero", ["--slots=0"], "--slots: '0' is not allowed; give 1..1024 sharers of one GPU"),
    ("slots-many", ["--slots=1025"], "--slots: '1025' is not allowed"),
    ("slots-text", ["--slots=x"], "--slots: invalid int value: 'x'"),
    ("log-level", ["--log-level=loud"], "--log-level: invalid choice: 'loud'"),
    ("unknown", ["--nod-name=x"], "command line: unrecognized arguments: --nod-name=x; see --help"),
]


@pytest.mark.parametrize(("argv", "text"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_wrong_options_name_the_flag(argv: list[str], text: str) -> None:
    with pytest.raises(OptionInvalid) as wrong:
        PluginOptions.from_argv(["--node-name=n1", *argv])
    assert str(wrong.value).startswith(text)


@pytest.mark.parametrize(
    "changes", [{"allocator": "me"}, {"log_level": "loud"}, {"slots": True}], ids=["allocator", "log-level", "bool"]
)
def test_options_made_in_code_are_checked_as_well(changes: dict[str, object]) -> None:
    with pytest.raises(OptionInvalid, match="is not allowed"):
        PluginOptions(node_name="n1", **changes)  # type: ignore[arg-type]


DIRECTORIES = ["plugin_dir", "registry_dir", "cdi_dir", "state_dir", "run_dir"]


def options_below(root: Path, **changes: Path) -> PluginOptions:
    places = {name: root / name for name in DIRECTORIES} | changes
    return PluginOptions(node_name="n1", **places)  # type: ignore[arg-type]


def test_directories_that_can_be_made_are_accepted_and_not_made(tmp_path: Path) -> None:
    check_directories(options_below(tmp_path / "not" / "yet"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_file_in_a_directorys_place_names_the_flag(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(OptionInvalid, match=rf"{flag}: .*/file is no directory; move it away"):
        check_directories(options_below(tmp_path, **{name: tmp_path / "file" / "below"}))


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_directory_that_can_not_be_written_to_names_the_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    # Permissions do not stop root, who runs tests too; a read-only mount does, and access(2) tells both alike.
    monkeypatch.setattr("os.access", lambda path, _mode: Path(path) != locked)
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(OptionInvalid, match=rf"{flag}: .*/locked can not be written to; mount it writable"):
        check_directories(options_below(tmp_path, **{name: locked / "below"}))
