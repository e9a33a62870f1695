"""A claim is prepared and taken back: what is decided, what is written, what survives a crash."""
