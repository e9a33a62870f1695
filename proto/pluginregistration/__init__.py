"""Plugin registration with the kubelet."""
