"""What the controller tells about itself: metrics, traces, health."""
