"""The GPUs of the node: found, asked within a time limit, watched."""
