"""DRA plugin service v1: kubelet 1.34 and later."""
