"""What can go wrong before a test of the real cluster can say anything."""

from fracgpu.driver.errors import FracgpuError


class ClusterUnavailable(FracgpuError):
    """Something that the cluster is made of is missing, does not start or does not answer.

    Never a reason to skip: a tier that leaves out what it cannot run proves nothing.
    """
