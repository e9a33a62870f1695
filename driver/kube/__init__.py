"""The connection to the API server, for every component of ours."""
