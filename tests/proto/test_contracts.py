"""The contracts with kubelet and API server, field by field, against what kubernetes_fields.py has of Kubernetes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor

from fracgpu.proto.dra.v1 import api_pb2 as dra_v1
from fracgpu.proto.dra.v1 import api_pb2_grpc as dra_v1_grpc
from fracgpu.proto.dra.v1beta1 import api_pb2 as dra_v1beta1
from fracgpu.proto.drahealth.v1 import api_pb2 as health_v1
from fracgpu.proto.drahealth.v1alpha1 import api_pb2 as health_v1alpha1
from fracgpu.proto.pluginregistration.v1 import api_pb2 as registration
from fracgpu.proto.resource.v1 import generated_pb2 as resource
from tests.proto import kubernetes_fields

SCALARS = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
}
MODULES = [dra_v1, dra_v1beta1, health_v1, health_v1alpha1, registration, resource]

TABLES: list[tuple[Any, dict[str, str]]] = [
    (registration, kubernetes_fields.REGISTRATION),
    (dra_v1, kubernetes_fields.DRA_V1),
    (dra_v1beta1, kubernetes_fields.DRA_V1BETA1),
    (health_v1, kubernetes_fields.HEALTH),
    (health_v1alpha1, kubernetes_fields.HEALTH),
    (resource, kubernetes_fields.CLAIM),
]
# The claim is proto2, where every field that is not repeated may be absent.
PROTO2 = [resource]


def file_of(module: Any) -> str:
    return str(module.DESCRIPTOR.name)


def type_of(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return str(field.message_type.name)
    return str(field.enum_type.name) if field.enum_type is not None else SCALARS[field.type]


def written(field: FieldDescriptor, *, proto2: bool) -> str:
    """Return a field as the tables have it."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return f"{field.name}:{field.number}:{type_of(key)}>{type_of(value)}"
    optional = field.has_presence and field.message_type is None and not proto2
    return f"{field.name}:{field.number}:{type_of(field)}{'*' if field.is_repeated else '?' if optional else ''}"


@pytest.mark.parametrize(
    ("module", "table"), TABLES, ids=lambda value: file_of(value) if hasattr(value, "DESCRIPTOR") else ""
)
def test_messages_have_exactly_the_fields_of_the_wire(module: Any, table: dict[str, str]) -> None:
    found = {
        message.name: [written(field, proto2=module in PROTO2) for field in message.fields]
        for message in module.DESCRIPTOR.message_types_by_name.values()
    }
    assert found == {name: fields.split() for name, fields in table.items()}


@pytest.mark.parametrize(
    ("module", "methods"),
    [
        (
            registration,
            [
                ("pluginregistration.Registration.GetInfo", "InfoRequest", "PluginInfo", False),
                (
                    "pluginregistration.Registration.NotifyRegistrationStatus",
                    "RegistrationStatus",
                    "RegistrationStatusResponse",
                    False,
                ),
            ],
        ),
        *(
            (
                module,
                [
                    (
                        f"k8s.io.kubelet.pkg.apis.dra.{version}.DRAPlugin.Node{verb}Resources",
                        f"Node{verb}ResourcesRequest",
                        f"Node{verb}ResourcesResponse",
                        False,
                    )
                    for verb in ("Prepare", "Unprepare")
                ],
            )
            for module, version in ((dra_v1, "v1"), (dra_v1beta1, "v1beta1"))
        ),
        *(
            (
                module,
                [
                    (
                        f"{version}.DRAResourceHealth.NodeWatchResources",
                        "NodeWatchResourcesRequest",
                        "NodeWatchResourcesResponse",
                        True,
                    )
                ],
            )
            for module, version in ((health_v1, "v1"), (health_v1alpha1, "v1alpha1"))
        ),
    ],
    ids=lambda value: file_of(value) if hasattr(value, "DESCRIPTOR") else "",
)
def test_services_have_the_methods_that_the_kubelet_calls(module: Any, methods: list[tuple[object, ...]]) -> None:
    found = [
        (method.full_name, method.input_type.name, method.output_type.name, method.server_streaming)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]
    assert found == methods
    assert not any(method.client_streaming for s in module.DESCRIPTOR.services_by_name.values() for method in s.methods)


@pytest.mark.parametrize("module", [health_v1, health_v1alpha1], ids=file_of)
def test_health_values(module: Any) -> None:
    assert dict(module.HealthStatus.items()) == {"UNKNOWN": 0, "HEALTHY": 1, "UNHEALTHY": 2}


@pytest.mark.parametrize("module", MODULES, ids=file_of)
def test_pool_names_are_our_own_and_name_the_source(module: Any) -> None:
    name = file_of(module)
    assert name.startswith("fracgpu/proto/")
    assert Path(module.__file__).parents[len(Path(name).parts) - 3].joinpath(*Path(name).parts[2:]).is_file()


def test_share_id_can_be_absent() -> None:
    assert not dra_v1.Device().HasField("share_id")
    assert dra_v1.Device(share_id="").HasField("share_id")


def test_golden_bytes_of_a_prepare_response() -> None:
    device = dra_v1.Device(request_names=["g"], pool_name="n", device_name="d", cdi_device_ids=["v/c=i"], share_id="s")
    response = dra_v1.NodePrepareResourcesResponse(
        claims={"u": dra_v1.NodePrepareResourceResponse(devices=[device], error="e")}
    )
    inner = b"\x0a\x01g\x12\x01n\x1a\x01d\x22\x05v/c=i\x2a\x01s"
    entry = b"\x0a" + bytes([len(inner)]) + inner + b"\x12\x01e"
    pair = b"\x0a\x01u" + b"\x12" + bytes([len(entry)]) + entry
    assert response.SerializeToString() == b"\x0a" + bytes([len(pair)]) + pair


class Plugin(dra_v1_grpc.DRAPluginServicer):
    """Answers like a plugin that refuses everything."""

    def NodePrepareResources(self, request: Any, _context: Any) -> Any:  # noqa: N802
        return dra_v1.NodePrepareResourcesResponse(
            claims={claim.uid: dra_v1.NodePrepareResourceResponse(error="no") for claim in request.claims}
        )

    def NodeUnprepareResources(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return dra_v1.NodeUnprepareResourcesResponse()


def test_a_server_answers_under_the_full_method_name(tmp_path: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    dra_v1_grpc.add_DRAPluginServicer_to_server(Plugin(), server)
    address = f"unix://{tmp_path}/dra.sock"
    server.add_insecure_port(address)
    server.start()
    try:
        with grpc.insecure_channel(address) as channel:
            method = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources"
            raw: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
            answer = raw(b"\x0a\x03\x12\x01u")
    finally:
        server.stop(None).wait()
    assert answer == b"\x0a\x09\x0a\x01u\x12\x04\x12\x02no"
