"""The kubelet's DRA plugin service."""
