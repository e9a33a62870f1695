"""``fracgpu run``: one command under a limit, on any Linux machine, without Kubernetes, root or mounts."""
