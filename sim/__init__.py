"""The embedded cluster: an API emulator, a control plane stand-in and a node runtime.

It exists so that `fracgpu lab`, the demo and the tests run the real plugin, the real interceptor and real pods
without a cluster. Its parts meet each other only through the Kubernetes API over HTTP, like those of a real cluster.
"""
