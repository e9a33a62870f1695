"""What the node makes of a plugin's answer, in each version of the service."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest

from fracgpu.proto.dra.v1 import api_pb2 as v1_pb2
from fracgpu.proto.dra.v1 import api_pb2_grpc as v1_grpc
from fracgpu.proto.dra.v1beta1 import api_pb2 as v1beta1_pb2
from fracgpu.proto.dra.v1beta1 import api_pb2_grpc as v1beta1_grpc
from fracgpu.sim.node.dra_client import ClaimRef, PreparedDevice, node_prepare, node_unprepare
from fracgpu.sim.node.errors import PrepareFailed, UnprepareFailed
from fracgpu.sim.node.registration import RegisteredPlugin

CLAIM = ClaimRef(namespace="ns", name="c", uid="u")


@contextmanager
def plugin(path: Path, messages: ModuleType, services: ModuleType) -> Iterator[None]:
    """Serve what a plugin of ours serves: one device with a share, as bytes of v1 whatever the version."""

    class Plugin(services.DRAPluginServicer):  # type: ignore[misc,name-defined]
        def NodePrepareResources(self, request: Any, _context: Any) -> Any:  # noqa: N802
            device = v1_pb2.Device(request_names=["g"], pool_name="n", device_name="d", share_id="s")
            answer = v1_pb2.NodePrepareResourcesResponse(
                claims={claim.uid: v1_pb2.NodePrepareResourceResponse(devices=[device]) for claim in request.claims}
            )
            return messages.NodePrepareResourcesResponse.FromString(answer.SerializeToString())

    server = grpc.server(ThreadPoolExecutor(1))
    services.add_DRAPluginServicer_to_server(Plugin(), server)
    server.add_insecure_port(f"unix://{path}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("service", "messages", "services", "share"),
    [
        ("v1.DRAPlugin", v1_pb2, v1_grpc, "s"),
        ("v1beta1.DRAPlugin", v1beta1_pb2, v1beta1_grpc, ""),
    ],
    ids=["v1", "v1beta1"],
)
def test_a_share_is_told_in_v1_only(
    tmp_path_factory: pytest.TempPathFactory, service: str, messages: ModuleType, services: ModuleType, share: str
) -> None:
    path = tmp_path_factory.mktemp("s") / "dra.sock"
    with plugin(path, messages, services):
        devices = dict(node_prepare(RegisteredPlugin(driver="driver", endpoint=str(path), service=service), [CLAIM]))
    assert devices == {
        CLAIM: (
            PreparedDevice(
                driver="driver",
                request_names=("g",),
                pool_name="n",
                device_name="d",
                cdi_device_ids=(),
                share_id=share,
            ),
        )
    }


OTHER = ClaimRef(namespace="ns", name="other", uid="v")


@contextmanager
def answering(path: Path, **errors: str) -> Iterator[RegisteredPlugin]:
    """Serve a plugin that answers for these claim uids, with an error or, where it is empty, a device."""

    class Plugin(v1_grpc.DRAPluginServicer):
        def NodePrepareResources(self, _request: Any, _context: Any) -> Any:  # noqa: N802
            answers = {}
            for uid, error in errors.items():
                devices = [] if error else [v1_pb2.Device(pool_name="n", device_name="d")]
                answers[uid] = v1_pb2.NodePrepareResourceResponse(devices=devices, error=error)
            return v1_pb2.NodePrepareResourcesResponse(claims=answers)

        def NodeUnprepareResources(self, _request: Any, _context: Any) -> Any:  # noqa: N802
            answers = {uid: v1_pb2.NodeUnprepareResourceResponse(error=error) for uid, error in errors.items()}
            return v1_pb2.NodeUnprepareResourcesResponse(claims=answers)

    server = grpc.server(ThreadPoolExecutor(1))
    v1_grpc.add_DRAPluginServicer_to_server(Plugin(), server)
    server.add_insecure_port(f"unix://{path}")
    server.start()
    try:
        yield RegisteredPlugin(driver="driver", endpoint=str(path), service="v1.DRAPlugin")
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("errors", "problem"),
    [
        ({"u": "no", "v": ""}, "{call} failed for ResourceClaim c: no"),
        ({"u": ""}, "{call} skipped 1 ResourceClaims"),
        ({}, "{call} skipped 2 ResourceClaims"),
        ({"u": "", "v": "", "w": ""}, "{call} returned result for unknown claim UID w"),
    ],
    ids=["error", "one skipped", "all skipped", "unknown claim"],
)
def test_an_answer_that_is_not_one_for_each_claim_is_a_failure(
    tmp_path_factory: pytest.TempPathFactory, errors: dict[str, str], problem: str
) -> None:
    path = tmp_path_factory.mktemp("s") / "dra.sock"
    with answering(path, **errors) as registered:
        with pytest.raises(PrepareFailed) as prepare:
            list(node_prepare(registered, [CLAIM, OTHER]))
        with pytest.raises(UnprepareFailed) as unprepare:
            node_unprepare(registered, [CLAIM, OTHER])
    assert prepare.value.what == problem.format(call="NodePrepareResources")
    assert unprepare.value.what == problem.format(call="NodeUnprepareResources")


def test_a_call_that_fails_is_named_as_go_names_it(tmp_path: Path) -> None:
    nobody = RegisteredPlugin(driver="driver", endpoint=str(tmp_path / "s"), service="v1.DRAPlugin")
    with pytest.raises(PrepareFailed, match="NodePrepareResources: rpc error: code = Unavailable desc = "):
        list(node_prepare(nobody, [CLAIM]))
