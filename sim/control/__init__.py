"""Stand-ins for the control plane that a real cluster brings: kube-scheduler and kube-controller-manager.

They share nothing but the API. Beside them runs fracgpu's own controller, the real one.
"""

from fracgpu.sim.control.plane import ControlPlane

__all__ = ["ControlPlane"]
