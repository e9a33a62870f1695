"""Manifests: what is shipped, what is refused and how it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fracgpu.controller.fit.views import GpuView
from fracgpu.controller.objects.selectors import selector_of
from fracgpu.driver.config import parse_config
from fracgpu.driver.names import CLASS_FRACTION, CLASS_WHOLE, DRIVER_NAME
from fracgpu.sim import manifests
from fracgpu.sim.api import resources as r


def _node(name: str, **labels: str) -> str:
    return f"apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels: {labels}\n"


@pytest.mark.parametrize(
    ("gpu", "classes"),
    [
        ({"allocator": "controller", "oversubscribed": False}, {CLASS_FRACTION, CLASS_WHOLE}),
        ({"allocator": "controller", "oversubscribed": True}, {CLASS_FRACTION}),
        ({"allocator": "controller"}, {CLASS_FRACTION}),
    ],
)
def test_shipped_classes_select_what_they_are_for(gpu: dict[str, Any], classes: set[str]) -> None:
    view = GpuView(node="n", pool="n", device="g", physical_memory_bytes=1 << 30, memory_bytes=1 << 30, attributes=gpu)
    shipped = {item["metadata"]["name"]: item["spec"] for item in manifests.load(manifests.shipped())}
    assert set(shipped) == {CLASS_FRACTION, CLASS_WHOLE}
    selecting = {
        name
        for name, spec in shipped.items()
        if selector_of([item["cel"]["expression"] for item in spec["selectors"]], name).matches(view)
    }
    assert selecting == classes


def test_class_of_whole_gpus_says_so() -> None:
    shipped = {item["metadata"]["name"]: item["spec"] for item in manifests.load(manifests.shipped())}
    opaque = shipped[CLASS_WHOLE]["config"][0]["opaque"]
    assert opaque["driver"] == DRIVER_NAME
    assert parse_config(opaque["parameters"], source="FromClass").memory == "Whole"


def test_apply_creates_then_replaces(start: Any, tmp_path: Path) -> None:
    world = start(control_plane=False)
    path = tmp_path / "nodes.yaml"
    path.write_text(f"{_node('n1')}---\n# only a comment\n---\n{_node('n2')}")
    assert len(manifests.apply(world.server.url, manifests.load(path))) == 2
    first = world.get(r.NODES, "n1")["metadata"]
    path.write_text(_node("n1", zone="x"))
    manifests.apply(world.client, manifests.load(str(path)))
    second = world.get(r.NODES, "n1")["metadata"]
    assert (second["uid"], second["labels"]) == (first["uid"], {"zone": "x"})


def test_applied_parameters_are_canonical(start: Any) -> None:
    world = start(control_plane=False)
    stored = world.server.registry.store.get(r.DEVICE_CLASSES, "", CLASS_WHOLE)
    parameters = stored["spec"]["config"][0]["opaque"]["parameters"]
    assert parameters == parameters.canonical()


def test_lists_are_unrolled_and_namespaces_set(start: Any, make_claim: Any) -> None:
    world = start(control_plane=False)
    world.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})
    text = "apiVersion: v1\nkind: List\nitems:\n" + "".join(
        f"- {{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: x}}]}}}}\n"
        for name in ("a", "b")
    )
    stored = manifests.apply(world.client, manifests.load(text), namespace="team")
    assert [item["metadata"]["namespace"] for item in stored] == ["team", "team"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [\n", r"document 1: is not YAML"),
        (f"{_node('n1')}---\nb: {{\n", r"document 2: is not YAML"),
        ("just text\n", r"text document 1: is not a Kubernetes object"),
        ("kind: Node\n", r"is not a Kubernetes object"),
        ("apiVersion: v1\nkind: Node\nmetadata: {}\n", r"Node has no name"),
        (f"{_node('n1')}---\n- 1\n", r"text document 2: is not a Kubernetes object"),
    ],
)
def test_bad_manifest(text: str, message: str) -> None:
    with pytest.raises(manifests.ManifestError, match=message):
        manifests.load(text)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(manifests.ManifestError, match=r"nothing\.yaml: cannot be read"):
        manifests.load(tmp_path / "nothing.yaml")


def test_unknown_kind_stops_before_the_first_write(start: Any) -> None:
    world = start(control_plane=False)
    text = f"{_node('n1')}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n"
    with pytest.raises(manifests.ManifestError, match=r"text document 2: v1 Secret is not served; served kinds: .*Pod"):
        manifests.apply(world.client, manifests.load(text))
    assert world.get(r.NODES, "n1") is None


def test_refusal_names_document_and_quotes_the_server(start: Any) -> None:
    world = start(control_plane=False)
    text = f"{_node('n1')}---\n{_node('N2')}"
    with pytest.raises(manifests.ManifestError, match=r"text document 2: Node N2 refused: .*RFC 1123"):
        manifests.apply(world.client, manifests.load(text))
    with pytest.raises(manifests.ManifestError, match=r"object 1: Node N3 refused"):
        manifests.apply(world.client, [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "N3"}}])


def test_times_stay_text() -> None:
    (item,) = manifests.load("apiVersion: v1\nkind: Node\nmetadata: {name: n}\nat: 2026-01-01T00:00:00Z\n")
    assert item["at"] == "2026-01-01T00:00:00Z"
