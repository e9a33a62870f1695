from pathlib import Path

import pytest

from fracgpu.driver.pci import normalise_pci_bus_id, numa_node, pcie_root

ADDRESS = "0000:3b:00.0"


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    device = tmp_path / "devices" / "pci0000:3a" / "0000:3a:00.0" / ADDRESS
    device.mkdir(parents=True)
    (device / "numa_node").write_text("1\n")
    links = tmp_path / "bus" / "pci" / "devices"
    links.mkdir(parents=True)
    (links / ADDRESS).symlink_to(device)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("00000000:3B:00.0", ADDRESS),
        ("0000:3b:00.0", ADDRESS),
        ("00010000:3B:00.0", "10000:3b:00.0"),
        ("", ""),
        ("3b:00.0", ""),
        ("garbage", ""),
    ],
)
def test_addresses_are_written_as_sysfs_does(text: str, address: str) -> None:
    assert normalise_pci_bus_id(text) == address


def test_reads_root_and_numa_node(sysfs: Path) -> None:
    assert pcie_root(ADDRESS, sysfs) == "pci0000:3a"
    assert numa_node(ADDRESS, sysfs) == 1


@pytest.mark.parametrize("address", ["", "0000:99:00.0"], ids=["unknown-address", "no-such-device"])
def test_unknown_devices_are_unknown(sysfs: Path, address: str) -> None:
    assert pcie_root(address, sysfs) is None
    assert numa_node(address, sysfs) == -1


@pytest.mark.parametrize("text", ["-1\n", "-7", "", "x"])
def test_no_affinity_and_nonsense_are_unknown(sysfs: Path, text: str) -> None:
    (sysfs / "bus" / "pci" / "devices" / ADDRESS / "numa_node").write_text(text)
    assert numa_node(ADDRESS, sysfs) == -1


def test_a_device_outside_the_tree_has_no_root(sysfs: Path, tmp_path: Path) -> None:
    stray = tmp_path / "stray"
    stray.mkdir()
    (sysfs / "bus" / "pci" / "devices" / "0000:99:00.0").symlink_to(stray)
    assert pcie_root("0000:99:00.0", sysfs) is None
