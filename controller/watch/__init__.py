"""News of the cluster: one informer per resource."""
