"""Emulator of the part of kube-apiserver 1.36 that DRA drivers stand on.

PyPI's kmock 0.8 was examined first: its KubernetesEmulator has no real resourceVersions, no optimistic concurrency,
no generateName and no separation of the status subresource, and a DRA driver depends on all four.
"""

from fracgpu.sim.api.server import ApiServer

__all__ = ["ApiServer"]
