"""DRA plugin service v1beta1: kubelets before 1.34."""
