"""``fracgpu doctor``: is this machine fit to share its GPUs, and who else has a hand on them?"""
