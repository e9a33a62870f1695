"""One node of the embedded cluster: what the kubelet and the container runtime do, without either of them.

The point of this package is honesty. Pods get their GPU share only through what a real node would use: the plugin's
registration socket, its gRPC service and the CDI file that it leaves on disk. Nothing here knows how fracgpu limits
a container, but for `standalone`, which translates CDI mounts where a machine allows none.
"""
