"""The fit engine: a placement, or why there is none. Pure; knows no Kubernetes objects."""
