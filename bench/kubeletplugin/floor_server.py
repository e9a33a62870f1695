"""The floor under a Prepare: a gRPC server of the same kind whose handler forces one file to disk, and nothing else.

python floor_server.py SOCKET FILE
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from fracgpu.proto.dra.v1 import api_pb2, api_pb2_grpc

_CONTENT = b"x" * 1024


class _Floor(api_pb2_grpc.DRAPluginServicer):
    def __init__(self, file: Path) -> None:
        self._file = file

    def NodePrepareResources(  # noqa: N802
        self, request: api_pb2.NodePrepareResourcesRequest, context: grpc.ServicerContext
    ) -> api_pb2.NodePrepareResourcesResponse:
        del request, context
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, _CONTENT)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return api_pb2.NodePrepareResourcesResponse()

    def NodeUnprepareResources(  # noqa: N802
        self, request: api_pb2.NodeUnprepareResourcesRequest, context: grpc.ServicerContext
    ) -> api_pb2.NodeUnprepareResourcesResponse:
        del request, context
        return api_pb2.NodeUnprepareResourcesResponse()


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(16))
    api_pb2_grpc.add_DRAPluginServicer_to_server(_Floor(Path(sys.argv[2])), server)
    server.add_insecure_port(f"unix:{sys.argv[1]}")
    server.start()
    print("listening", flush=True)
    server.wait_for_termination()
