"""Manifests: load YAML and put it into a cluster as kubectl would.

The bodies are sent as kubectl sends them (sorted keys, compact), so that what is applied here does not fall into the
trap of opaque parameters that no JSON client can update.
"""

from fracgpu.sim.manifests.apply import ManifestError, ManifestObject, apply, load, shipped

__all__ = ["ManifestError", "ManifestObject", "apply", "load", "shipped"]
