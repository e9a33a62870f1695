"""What the exercises share: the cluster, the sizes computed from its card, the two pods that share it."""

from __future__ import annotations

from dataclasses import dataclass

from fracgpu.driver.names import (
    ATTR_ALLOCATOR,
    ATTR_PHYSICAL_MEMORY_MIB,
    ATTR_PRODUCT_NAME,
    ATTR_UUID,
    CLASS_FRACTION,
    DRIVER_NAME,
)
from fracgpu.sim.lab.cluster import ClusterUnderTest
from fracgpu.sim.lab.errors import LabUnavailable
from fracgpu.sim.lab.node import NodeUnderTest
from fracgpu.sim.lab.options import MIB
from fracgpu.sim.node.api import Json

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
    """A cluster with the driver in it, one of its GPUs, the sizes for that card, and the namespace to play in.

    ``allocator`` is who allocates this GPU: ``controller`` or ``scheduler``. ``keeps_capacity``: the API server has
    DRAConsumableCapacity on; without it amounts count in the claim's own configuration only. ``node`` is None where
    nobody can look at the node: the exercises then show what can be seen from outside. ``alone``: the cluster has no
    other GPU of ours.
    """

    cluster: ClusterUnderTest
    node: NodeUnderTest | None
    namespace: str
    sizes: Sizes
    product_name: str
    gpu_uuid: str
    allocator: str
    keeps_capacity: bool
    alone: bool

    @classmethod
    def prepare(
        cls, cluster: ClusterUnderTest, *, node: NodeUnderTest | None = None, namespace: str = "default"
    ) -> Stage:
        """Read the card from the ResourceSlices that the plugins published, as any client of the API would.

        Raises:
            LabUnavailable: no GPU is published, or the first is too small.

        """
        devices = [device for one in cluster.slices(DRIVER_NAME) for device in one["spec"]["devices"]]
        if not devices:
            raise LabUnavailable(f"driver {DRIVER_NAME}", "publishes no GPU", remedy="see the log of its plugin")
        attributes = devices[0]["attributes"]
        return cls(
            cluster=cluster,
            node=node,
            namespace=namespace,
            sizes=Sizes.for_card(int(attributes[ATTR_PHYSICAL_MEMORY_MIB]["int"])),
            product_name=attributes[ATTR_PRODUCT_NAME]["string"],
            gpu_uuid=attributes[ATTR_UUID]["string"],
            allocator=attributes[ATTR_ALLOCATOR]["string"],
            # The plugin says of every GPU that it is shared; with the gate off the API server drops that.
            keeps_capacity="allowMultipleAllocations" in devices[0],
            alone=len(devices) == 1,
        )

    @property
    def looks_inside(self) -> bool:
        """Containers have mounts of their own, so what the plugin says of them can be proven."""
        return self.node is None or self.node.isolation.mounts

    def manifest(self, name: str, memory_mib: int) -> str:
        """Return the manifest of a claim for a slice and of a pod that uses it and sleeps."""
        amounts = _AMOUNTS.format(memory=f"{memory_mib}Mi", cores=_CORES, driver=DRIVER_NAME)
        return _MANIFEST.format(
            name=name,
            memory=f"{memory_mib}Mi",
            device_class=CLASS_FRACTION,
            cores=_CORES,
            config="" if self.keeps_capacity else amounts,
            image=self.cluster.image,
            selectors="" if self.alone else _THIS_GPU.format(driver=DRIVER_NAME, uuid=self.gpu_uuid),
        )

    def pod(self, name: str) -> Json:
        """Return one of the pods; raises ApiRefusedError."""
        return self.cluster.pod(name, self.namespace)

    def claim(self, name: str) -> Json:
        """Return the claim of one of the pods; raises ApiRefusedError."""
        return self.cluster.claim(name, self.namespace)

    def output_of(self, name: str, argv: list[str]) -> str:
        """Return what a command prints inside one of the pods; raises CommandFailed."""
        return self.cluster.output_of(name, argv, namespace=self.namespace)


_CORES = 25
# What a user would write, with the amounts where they count whoever allocates: see README.md.
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
        capacity:
          requests:
            memory: {memory}
            cores: "{cores}"{selectors}{config}
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  resourceClaims:
  - name: gpu
    resourceClaimName: {name}
  containers:
  - name: main
    image: {image}
    command: [sleep, infinity]
    resources:
      claims:
      - name: gpu
"""
# The same where the API server drops capacity.requests.
_AMOUNTS = """
    config:
    - opaque:
        driver: {driver}
        parameters:
          apiVersion: gpu.fracgpu.dev/v1alpha1
          cores: {cores}
          kind: FractionConfig
          memory: {memory}"""
# Both pods and the third that does not fit have to mean the same GPU.
_THIS_GPU = """
        selectors:
        - cel:
            expression: device.attributes["{driver}"].uuid == "{uuid}\""""
