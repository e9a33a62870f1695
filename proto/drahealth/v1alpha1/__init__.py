"""Device health v1alpha1: kubelet 1.36."""
