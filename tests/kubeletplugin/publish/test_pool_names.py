"""Names by Kubernetes' rules: nodes have dots and up to 253 characters, drivers up to 63, devices no dot at all."""

import re
from typing import Any

import pytest

from fracgpu.driver.names import CLASS_FRACTION, CLASS_WHOLE, DRIVER_NAME
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.publish.slices import build_slice

LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = re.compile(rf"{LABEL}(\.{LABEL})*")
DEVICE = re.compile(LABEL)


@pytest.mark.parametrize(
    "node", ["n1", "ip-10-0-0-1.eu-west-1.compute.internal", "1.2.3.4", f"{'a' * 63}." * 3 + "a" * 61]
)
def test_any_node_name_is_a_pool_and_no_part_of_a_device(world: Any, node: str) -> None:
    item = build_slice([world.gpu(0)], PluginOptions(node_name=node), node_uid="u")
    assert item["spec"]["pool"]["name"] == item["spec"]["nodeName"] == node
    assert SUBDOMAIN.fullmatch(item["metadata"]["name"])
    assert len(item["metadata"]["name"]) <= 253
    (device,) = item["spec"]["devices"]
    assert DEVICE.fullmatch(device["name"])
    assert len(device["name"]) <= 63


@pytest.mark.parametrize("name", [DRIVER_NAME, CLASS_FRACTION, CLASS_WHOLE])
def test_driver_and_classes_are_lower_case_subdomains(name: str) -> None:
    assert SUBDOMAIN.fullmatch(name)
    assert len(name) <= 63
