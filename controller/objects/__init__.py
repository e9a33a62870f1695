"""Between Kubernetes objects and the fit engine: reading demand and supply, writing allocations. Pure."""
