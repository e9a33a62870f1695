"""The kubelet's device health service."""
