"""A prioritized list: the result is of `gpu/large`, and what is configured for `gpu` or for `gpu/large` applies."""

from typing import Any

from fracgpu.native.config_page import decode_config_page


def parameters(**fields: Any) -> dict[str, Any]:
    return {"apiVersion": "gpu.fracgpu.dev/v1alpha1", "kind": "FractionConfig", **fields}


def cores_of_page(world: Any, make_opaque: Any, *entries: tuple[list[str], dict[str, Any]]) -> int:
    ref = world.claim("c1", {"request": "gpu/large"})
    world.change(ref)["status"]["allocation"]["devices"]["config"][:0] = [
        make_opaque("FromClass", parameters(**fields), requests) for requests, fields in entries
    ]
    world.preparer().prepare(ref)
    page = decode_config_page((world.allocation(ref, "gpu-gpu-11111111-0") / "config").read_bytes())
    return int(page.cores_percent)


def test_without_configuration_the_cores_are_a_cap(world: Any, make_opaque: Any) -> None:
    assert cores_of_page(world, make_opaque) == 30


def test_configuration_of_the_request_applies_to_its_alternative(world: Any, make_opaque: Any) -> None:
    assert cores_of_page(world, make_opaque, (["gpu"], {"coresPolicy": "None"})) == 0


def test_configuration_of_the_alternative_applies(world: Any, make_opaque: Any) -> None:
    assert cores_of_page(world, make_opaque, (["gpu/large"], {"coresPolicy": "None"})) == 0


def test_the_later_of_both_wins_field_by_field(world: Any, make_opaque: Any) -> None:
    later = (["gpu/large"], {"coresPolicy": "Cap"})
    assert cores_of_page(world, make_opaque, (["gpu"], {"coresPolicy": "None"}), later) == 30


def test_configuration_of_another_alternative_does_not_apply(world: Any, make_opaque: Any) -> None:
    assert cores_of_page(world, make_opaque, (["gpu/small"], {"coresPolicy": "None"})) == 30
