"""Where the plugin finds its driver, and what the container runtime is told of it."""

from pathlib import Path

import pytest

from fracgpu.cdi.errors import DriverAbsent, DriverFilesMissing
from fracgpu.kubeletplugin.gpus.node_driver import read_driver
from fracgpu.kubeletplugin.options import PluginOptions
from tests.cdi.conftest import elf_library

VERSION = "580.65.06"


def install(root: Path, *nodes: str) -> None:
    libraries = root / "usr/lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    for stem in ("libcuda", "libnvidia-ml"):
        (libraries / f"{stem}.so.{VERSION}").write_bytes(elf_library(f"{stem}.so.1"))
        (libraries / f"{stem}.so.1").symlink_to(f"{stem}.so.{VERSION}")
    (root / "dev").mkdir(exist_ok=True)
    for node in nodes:
        (root / "dev" / node).touch()


def automatic(host: Path, **changes: Path) -> PluginOptions:
    return PluginOptions(node_name="n1", host_root=host, find_driver_root=True, **changes)  # type: ignore[arg-type]


def test_a_given_root_is_used_as_it_is(tmp_path: Path) -> None:
    install(tmp_path / "given", "nvidiactl")
    options = PluginOptions(node_name="n1", driver_root=tmp_path / "given", dev_root=tmp_path / "given")
    driver = read_driver(options)
    assert driver.options is options
    assert driver.files.root == tmp_path / "given"
    assert driver.device_nodes == {"/dev/nvidiactl"}


def test_a_driver_on_the_host_is_named_as_the_host_names_it(tmp_path: Path) -> None:
    install(tmp_path, "nvidiactl", "nvidia0")
    driver = read_driver(automatic(tmp_path))
    assert driver.files.root == driver.options.driver_root == tmp_path
    assert (driver.options.driver_root_on_host, driver.options.dev_root) == (Path("/"), Path("/"))
    assert driver.device_nodes == {"/dev/nvidiactl", "/dev/nvidia0"}
    assert not driver.options.find_driver_root


def test_a_driver_container_that_comes_later_is_found(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    with pytest.raises(
        DriverAbsent, match=r"host root .*: has no NVIDIA driver in any usual place; install .*--driver"
    ):
        read_driver(automatic(tmp_path))
    install(tmp_path / "run/nvidia/driver", "nvidiactl")
    driver = read_driver(automatic(tmp_path))
    assert driver.options.driver_root_on_host == Path("/run/nvidia/driver")
    assert driver.options.dev_root == Path("/run/nvidia/driver")
    assert driver.device_nodes == {"/dev/nvidiactl"}


def test_half_a_driver_says_what_is_missing(tmp_path: Path) -> None:
    install(tmp_path)
    for library in (tmp_path / "usr/lib/x86_64-linux-gnu").glob("libnvidia-ml*"):
        library.unlink()
    with pytest.raises(DriverFilesMissing, match="is not"):
        read_driver(automatic(tmp_path))


def test_given_device_nodes_win_over_those_found(tmp_path: Path) -> None:
    install(tmp_path / "host", "nvidiactl")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia7").touch()
    driver = read_driver(automatic(tmp_path / "host", dev_root=tmp_path))
    assert driver.options.dev_root == tmp_path
    assert driver.device_nodes == {"/dev/nvidia7"}
