"""The control plane of the embedded cluster: our allocator and stand-ins for what a real cluster brings.

The allocator plays fracgpu's controller, the scheduler and the controllers play kube-scheduler and
kube-controller-manager. They share nothing but the API.
"""

from fracgpu.sim.control.plane import ControlPlane

__all__ = ["ControlPlane"]
