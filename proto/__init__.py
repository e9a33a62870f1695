"""The gRPC contracts of the kubelet, and the protobuf form of a ResourceClaim, with their generated code.

Field numbers are Kubernetes 1.36's; the wording is ours. Every file registers itself in the protobuf descriptor pool
under `fracgpu/proto/...`, so that another package in the same process with an `api.proto` of its own never collides.
`python -m fracgpu.proto.generate` makes the committed modules again, byte for byte.
"""
