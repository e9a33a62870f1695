"""The protobuf form of a `resource.k8s.io/v1` ResourceClaim."""
