"""The lab: an embedded cluster with a model GPU, and the five exercises that show a GPU being shared.

Everything between the API server and the CUDA calls is the real thing: the shipped kubelet plugin, its CDI files, the
shipped interceptor libraries, NVIDIA's own CUDA runtime. What stands in for hardware and for Kubernetes itself is said
on the first line of the output.
"""
