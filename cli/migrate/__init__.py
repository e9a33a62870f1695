"""``fracgpu migrate``: manifests for device plugins in, manifests with ResourceClaims out."""
