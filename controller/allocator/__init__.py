"""The allocator: from what is in the cluster to allocations in it, fenced against every other writer of ours."""
