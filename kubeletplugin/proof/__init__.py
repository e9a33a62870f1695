"""What containers really do with their allocations, told on the claim."""
