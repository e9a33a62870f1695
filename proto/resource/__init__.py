"""The protobuf form of a ResourceClaim."""
