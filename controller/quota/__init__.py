"""What namespaces may hold of the GPUs: FractionQuota objects, what counts against them, and their status."""
