"""The ResourceSlice of the node, kept as it should be."""
