"""The kubelet plugin: publishes a node's GPUs, prepares claims, takes them back."""
