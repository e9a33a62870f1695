"""The gRPC contracts of the kubelet, and the protobuf form of a ResourceClaim, with their generated code.

Fields and numbers are those of Kubernetes 1.36.3 (drahealth v1: of 1.37.0); the wording is ours. Every file registers
itself in the protobuf descriptor pool under `fracgpu/proto/...`, so that another package in the same process with an
`api.proto` of its own never collides.
`python -m fracgpu.proto.generate` makes the committed modules again, byte for byte.
"""
