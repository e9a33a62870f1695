"""The API server as the controller needs it."""
