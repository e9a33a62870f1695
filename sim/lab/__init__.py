"""The lab: an embedded cluster with a model GPU, and the five exercises that show a GPU being shared.

What is shown is the real thing: the shipped kubelet plugin, its CDI files, the shipped interceptor libraries, NVIDIA's
own Python bindings of CUDA and NVML. What stands in for hardware and for Kubernetes is said on the first line of the
output.
"""
