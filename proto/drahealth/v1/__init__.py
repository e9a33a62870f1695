"""Device health v1: kubelet 1.37 and later."""
