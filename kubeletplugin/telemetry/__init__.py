"""What operators see: metrics, traces, health endpoints."""
