"""What the exercises share: the lab, the sizes computed from its card, the two pods that share it."""

from __future__ import annotations

from dataclasses import dataclass

from fracgpu.driver.names import ATTR_PHYSICAL_MEMORY_MIB, ATTR_PRODUCT_NAME, CLASS_FRACTION, DRIVER_NAME
from fracgpu.sim.lab.errors import LabUnavailable
from fracgpu.sim.lab.lab import RESOURCE_API, Lab
from fracgpu.sim.lab.options import MIB

SHARING_PODS = ("share-a", "share-b")
THIRD_POD = "too-big"
STEP_MIB = 256
_ROUND_MIB = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Memory in MiB: of the card, of each of the two slices, of the third request that cannot fit beside them."""

    card_mib: int
    slice_mib: int
    third_mib: int

    @classmethod
    def for_card(cls, card_mib: int) -> Sizes:
        """Choose a slice of about a sixth of the card, and a third request between what is free and what there is.

        Raises:
            LabUnavailable: the card is too small for three steps per slice.

        """
        slice_mib = card_mib // 6 // _ROUND_MIB * _ROUND_MIB
        if slice_mib < 3 * STEP_MIB:
            raise LabUnavailable(f"GPU of {card_mib} MiB", "is too small for the exercises", remedy="use a larger card")
        free_mib = card_mib - 2 * slice_mib
        return cls(card_mib=card_mib, slice_mib=slice_mib, third_mib=(free_mib + card_mib) // 2)

    @property
    def free_mib(self) -> int:
        """What the two slices leave."""
        return self.card_mib - 2 * self.slice_mib

    @property
    def slice_bytes(self) -> int:
        """One slice in bytes."""
        return self.slice_mib * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A started lab with the sizes for its card."""

    lab: Lab
    sizes: Sizes
    product_name: str

    @classmethod
    def prepare(cls, lab: Lab) -> Stage:
        """Read the card from the ResourceSlice that the plugin published, as any client of the API would."""
        slices = lab.api.get(f"{RESOURCE_API}/resourceslices")["items"]
        device = next(item for item in slices if item["spec"]["driver"] == DRIVER_NAME)["spec"]["devices"][0]
        attributes = device["attributes"]
        return cls(
            lab=lab,
            sizes=Sizes.for_card(int(attributes[ATTR_PHYSICAL_MEMORY_MIB]["int"])),
            product_name=attributes[ATTR_PRODUCT_NAME]["string"],
        )

    def manifest(self, name: str, memory_mib: int) -> str:
        """Return the manifest of a claim for a slice and of a pod that uses it and sleeps."""
        return _MANIFEST.format(
            name=name, memory=f"{memory_mib}Mi", device_class=CLASS_FRACTION, driver=DRIVER_NAME, cores=25
        )


# What a user would write: see examples/share-two-pods.yaml.
_MANIFEST = """\
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata:
  name: {name}
spec:
  devices:
    requests:
    - name: gpu
      exactly:
        deviceClassName: {device_class}
    config:
    - opaque:
        driver: {driver}
        parameters:
          apiVersion: gpu.fracgpu.dev/v1alpha1
          kind: FractionConfig
          memory: {memory}
          cores: {cores}
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  restartPolicy: Never
  resourceClaims:
  - name: gpu
    resourceClaimName: {name}
  containers:
  - name: main
    image: fracgpu/lab
    command: [sleep, infinity]
    resources:
      claims:
      - name: gpu
"""
