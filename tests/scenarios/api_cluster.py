"""What a ResourceSlice and a DeviceClass may say."""

from __future__ import annotations

from typing import Any, Final

from fracgpu.sim.node.api import Json
from tests.scenarios.api_bodies import invalid, opaque, patch, put
from tests.scenarios.api_case import Case, Stored, Then

_DRIVER: Final = "conformance.example.com"
_DEVICE: Final = "spec.devices[0]"


def slice_of(*devices: Json, **spec: Any) -> Json:
    """Return a slice of one pool on one node."""
    whole = {
        "driver": _DRIVER,
        "nodeName": "no-such-node",
        "pool": {"name": "no-such-node", "generation": 1, "resourceSliceCount": 1},
        "devices": list(devices),
    } | spec
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "spec": {key: value for key, value in whole.items() if value is not None},
    }


def device(name: str = "gpu-0", **members: Any) -> Json:
    """Return a device."""
    return {"name": name, **members}


def shared(value: str = "10", **policy: Any) -> Json:
    """Return a device that may be shared, with a policy for its only capacity."""
    capacity = {"slots": {"value": value, "requestPolicy": policy}}
    return device(allowMultipleAllocations=True, capacity=capacity)


def device_class(*selectors: str, **spec: Any) -> Json:
    """Return a class."""
    chosen = {"selectors": [{"cel": {"expression": text}} for text in selectors]} if selectors else {}
    return {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "spec": chosen | spec}


def _slice(name: str, body: Json, *steps: Then, answer: Any) -> Case:
    return Case(name=f"slice {name}", body=body, then=steps, answer=answer)


def _class(name: str, body: Json, *steps: Then, answer: Any) -> Case:
    return Case(name=f"class {name}", body=body, then=steps, answer=answer)


def _edit(**spec: Any) -> Then:
    def edit(obj: Json) -> None:
        obj["spec"] |= spec

    return put(edit)


SLICES: Final = (
    _slice(
        "as a driver writes it",
        slice_of(
            device(
                attributes={
                    "uuid": {"string": "GPU-0"},
                    "numaNode": {"int": -1},
                    "oversubscribed": {"bool": False},
                    "driverVersion": {"version": "580.65.6"},
                    "resource.kubernetes.io/pcieRoot": {"string": "pci0000:00"},
                },
                allowMultipleAllocations=True,
                capacity={
                    "memory": {
                        "value": "49140Mi",
                        "requestPolicy": {
                            "default": "49140Mi",
                            "validRange": {"min": "0", "max": "49140Mi", "step": "1Mi"},
                        },
                    }
                },
            )
        ),
        answer=Stored(
            {
                f"{_DEVICE}.attributes.numaNode": {"int": -1},
                f"{_DEVICE}.allowMultipleAllocations": True,
                f"{_DEVICE}.capacity.memory.requestPolicy.validRange.min": "0",
                "metadata.generation": 1,
            },
            absent=("status",),
        ),
    ),
    _slice("without devices", slice_of(), answer=Stored({}, absent=(_DEVICE,))),
    _slice(
        "quantities are canonical",
        slice_of(device(capacity={"memory": {"value": "1024Mi"}})),
        answer=Stored({f"{_DEVICE}.capacity.memory.value": "1Gi"}),
    ),
    _slice(
        "generation counts",
        slice_of(),
        _edit(devices=[device()]),
        answer=Stored({"metadata.generation": 2}),
    ),
    _slice(
        "generation stays for labels",
        slice_of(),
        patch({"metadata": {"labels": {"a": "b"}}}),
        answer=Stored({"metadata.generation": 1}),
    ),
    _slice("without driver", slice_of(driver=""), answer=invalid("spec.driver: Required value")),
    _slice("driver in capitals", slice_of(driver="A.Driver"), answer=Stored({"spec.driver": "A.Driver"})),
    _slice("driver", slice_of(driver="a_driver"), answer=invalid('spec.driver: Invalid value: "a_driver"')),
    _slice(
        "driver too long",
        slice_of(driver=".".join(["x" * 32] * 2)),
        answer=invalid("spec.driver: Too long: may not be more than 63 bytes"),
    ),
    _slice(
        "without pool",
        slice_of(pool={"name": "", "generation": 1, "resourceSliceCount": 1}),
        answer=invalid("spec.pool.name: Required value"),
    ),
    _slice(
        "of no slices",
        slice_of(pool={"name": "a", "generation": 1, "resourceSliceCount": 0}),
        answer=invalid("spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero"),
    ),
    _slice(
        "negative generation",
        slice_of(pool={"name": "a", "generation": -1, "resourceSliceCount": 1}),
        answer=invalid("spec.pool.generation: Invalid value: -1: must be greater than or equal to zero"),
    ),
    _slice(
        "nowhere",
        slice_of(nodeName=None),
        answer=invalid(
            "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` "
            "is required"
        ),
    ),
    _slice(
        "in two places", slice_of(allNodes=True), answer=invalid("spec: Invalid value", "exactly one of `nodeName`")
    ),
    _slice(
        "two devices of one name",
        slice_of(device(), device()),
        answer=invalid('spec.devices[1]: Duplicate value: "gpu-0"'),
    ),
    _slice(
        "device without name",
        slice_of(device("")),
        answer=invalid('spec.devices[0].name: Invalid value: "": a lowercase RFC 1123 label'),
    ),
    _slice("device name", slice_of(device("GPU")), answer=invalid('spec.devices[0].name: Invalid value: "GPU"')),
    _slice(
        "too many devices",
        slice_of(*(device(f"gpu-{number}") for number in range(129))),
        answer=invalid("spec.devices: Too many: 129: must have at most 128 items"),
    ),
    _slice(
        "too many tainted devices",
        slice_of(*(device(f"gpu-{number}", taints=[{"key": "a", "effect": "NoSchedule"}]) for number in range(65))),
        answer=invalid("spec.devices: Too many: 65: must have at most 64 items"),
    ),
    _slice(
        "too many attributes",
        slice_of(device(attributes={f"a{number}": {"int": 1} for number in range(33)})),
        answer=invalid(
            "spec.devices[0]: Invalid value: 33: the total number of attributes and capacities must not exceed 32"
        ),
    ),
    _slice(
        "attribute of no kind",
        slice_of(device(attributes={"a": {}})),
        answer=invalid('attributes[a]: Invalid value: "": exactly one value must be specified'),
    ),
    _slice(
        "attribute of two kinds",
        slice_of(device(attributes={"a": {"int": 1, "bool": True}})),
        answer=invalid("attributes[a]: Invalid value", "exactly one value must be specified"),
    ),
    _slice(
        "attribute too long",
        slice_of(device(attributes={"a": {"string": "x" * 65}})),
        answer=invalid("attributes[a].string: Too long: may not be more than 64 bytes"),
    ),
    _slice(
        "attribute of a bad version",
        slice_of(device(attributes={"a": {"version": "580.65.06"}})),
        answer=invalid(
            'attributes[a].version: Invalid value: "580.65.06": must be a string compatible with semver.org spec 2.0.0'
        ),
    ),
    _slice(
        "attribute name",
        slice_of(device(attributes={"a-b": {"int": 1}})),
        answer=invalid("attributes", 'Invalid value: "a-b"', "valid C identifier"),
    ),
    _slice(
        "attribute name too long",
        slice_of(device(attributes={"x" * 33: {"int": 1}})),
        answer=invalid("attributes", "Too long: may not be more than 32 bytes"),
    ),
    _slice(
        "attribute without name",
        slice_of(device(attributes={"": {"int": 1}})),
        answer=invalid('attributes: Invalid value: "": a valid C identifier must start with'),
    ),
    _slice(
        "capacity name",
        slice_of(device(capacity={"a-b": {"value": "1"}})),
        answer=invalid("capacity", 'Invalid value: "a-b"', "valid C identifier"),
    ),
    _slice(
        "capacity without value",
        slice_of(device(capacity={"a": {}})),
        answer=Stored({f"{_DEVICE}.capacity.a.value": "0"}),
    ),
    _slice(
        "attribute domain",
        slice_of(device(attributes={"Bad_Domain/a": {"int": 1}})),
        answer=invalid("attributes", 'Invalid value: "Bad_Domain"', "RFC 1123 subdomain"),
    ),
    _slice(
        "taint of no effect",
        slice_of(device(taints=[{"key": "a"}])),
        answer=invalid("spec.devices[0].taints[0].effect: Required value"),
    ),
    _slice(
        "taint of another effect",
        slice_of(device(taints=[{"key": "a", "effect": "Some"}])),
        answer=invalid('taints[0].effect: Unsupported value: "Some"', '"NoExecute", "NoSchedule"'),
    ),
    _slice(
        "taint without key",
        slice_of(device(taints=[{"key": "", "effect": "NoSchedule"}])),
        answer=invalid("spec.devices[0].taints[0].key"),
    ),
    _slice(
        "driver is immutable",
        slice_of(),
        _edit(driver="other.example.com"),
        answer=invalid("spec.driver: Invalid value", "field is immutable"),
    ),
    _slice(
        "node is immutable",
        slice_of(),
        _edit(nodeName="other"),
        answer=invalid("spec.nodeName: Invalid value", "field is immutable"),
    ),
    _slice(
        "pool is immutable",
        slice_of(),
        _edit(pool={"name": "other", "generation": 1, "resourceSliceCount": 1}),
        answer=invalid("spec.pool.name: Invalid value", "field is immutable"),
    ),
)

POLICIES: Final = (
    _slice(
        "policy of a device that is not shared",
        slice_of(device(capacity={"slots": {"value": "10", "requestPolicy": {"default": "1"}}})),
        answer=invalid("capacity[slots].requestPolicy: Forbidden"),
    ),
    _slice(
        "policy of both kinds",
        slice_of(shared(default="1", validRange={"min": "0"}, validValues=["1"])),
        answer=invalid("capacity[slots].requestPolicy: Forbidden", "validValues", "validRange"),
    ),
    _slice(
        "policy without default",
        slice_of(shared(validRange={"min": "0"})),
        answer=invalid("capacity[slots].requestPolicy.default: Required value"),
    ),
    _slice(
        "policy with a default beyond the capacity",
        slice_of(shared(default="11")),
        answer=Stored({f"{_DEVICE}.capacity.slots.requestPolicy.default": "11"}),
    ),
    _slice(
        "policy of nothing",
        slice_of(shared()),
        answer=Stored({}, absent=(f"{_DEVICE}.capacity.slots.requestPolicy.default",)),
    ),
    _slice(
        "policy with min beyond the capacity",
        slice_of(shared(default="12", validRange={"min": "11"})),
        answer=invalid("capacity[slots].requestPolicy.validRange.min", "larger than capacity value: 10"),
    ),
    _slice(
        "policy with a step beyond the capacity",
        slice_of(shared(default="0", validRange={"min": "0", "step": "11"})),
        answer=invalid(
            'requestPolicy.validRange.step: Invalid value: "11": one step 11 is larger than capacity value: 10'
        ),
    ),
    _slice(
        "policy with a value twice",
        slice_of(shared(default="1", validValues=["1", "1"])),
        answer=invalid("capacity[slots].requestPolicy.validValues[1]: Duplicate value"),
    ),
    _slice(
        "policy with too many values",
        slice_of(shared(default="1", validValues=[f"{number}" for number in range(1, 12)])),
        answer=invalid("capacity[slots].requestPolicy.validValues: Too many: 11: must have at most 10 items"),
    ),
    _slice(
        "policy with values without default",
        slice_of(shared(validValues=["1"])),
        answer=invalid("requestPolicy.default: Required value: required when validValues is defined"),
    ),
    _slice(
        "policy without min",
        slice_of(shared(default="1", validRange={"max": "5"})),
        answer=invalid("capacity[slots].requestPolicy.validRange.min: Required value"),
    ),
    _slice(
        "policy with min above max",
        slice_of(shared(default="3", validRange={"min": "5", "max": "2"})),
        answer=invalid("capacity[slots].requestPolicy.validRange.max", "min is larger than max: 2"),
    ),
    _slice(
        "policy with max beyond the capacity",
        slice_of(shared(default="1", validRange={"min": "0", "max": "20"})),
        answer=invalid("capacity[slots].requestPolicy.validRange.max", "larger than capacity value: 10"),
    ),
    _slice(
        "policy with a default below min",
        slice_of(shared(default="1", validRange={"min": "2"})),
        answer=invalid('requestPolicy.validRange.min: Invalid value: "1": default is less than min: 2'),
    ),
    _slice(
        "policy with a default off the step",
        slice_of(shared(default="3", validRange={"min": "0", "step": "2"})),
        answer=invalid("requestPolicy.validRange.step", "value is not a multiple of a given step (2) from (0)"),
    ),
    _slice(
        "policy with max off the step",
        slice_of(shared(default="2", validRange={"min": "0", "max": "5", "step": "2"})),
        answer=invalid("requestPolicy.validRange.step", "value is not a multiple of a given step (2) from (0)"),
    ),
    _slice(
        "policy with values out of order",
        slice_of(shared(default="1", validValues=["2", "1"])),
        answer=invalid("capacity[slots].requestPolicy.validValues", "ascending"),
    ),
    _slice(
        "policy with a default that is no value",
        slice_of(shared(default="3", validValues=["1", "2"])),
        answer=invalid("capacity[slots].requestPolicy", "default"),
    ),
    _slice(
        "policy with a value beyond the capacity",
        slice_of(shared(default="1", validValues=["1", "20"])),
        answer=invalid("capacity[slots].requestPolicy.validValues[1]", "larger than capacity value: 10"),
    ),
)

CLASSES: Final = (
    _class(
        "defaults",
        device_class("device.driver == 'conformance.example.com'"),
        answer=Stored({"metadata.generation": 1}, absent=("status",)),
    ),
    _class("of everything", device_class(), answer=Stored({"spec": {}})),
    _class(
        "generation counts",
        device_class(),
        patch({"spec": {"selectors": [{"cel": {"expression": "true"}}]}}),
        answer=Stored({"metadata.generation": 2}),
    ),
    _class(
        "config of no kind",
        device_class(config=[{}]),
        answer=invalid("spec.config[0].opaque: Required value"),
    ),
    _class(
        "config of a number",
        device_class(config=[opaque(1)]),
        answer=invalid("spec.config[0].opaque.parameters: Invalid value", "must be a valid JSON object"),
    ),
    _class(
        "extended resource",
        device_class(extendedResourceName="example.com/gpu"),
        answer=Stored({"spec.extendedResourceName": "example.com/gpu"}),
    ),
    _class(
        "extended resource of no domain",
        device_class(extendedResourceName="gpu"),
        answer=invalid('spec.extendedResourceName: Invalid value: "gpu"'),
    ),
)
