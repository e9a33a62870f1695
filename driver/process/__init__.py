"""What every long-running process of ours has: loops, a stop, heartbeats, an HTTP port, checked options."""
