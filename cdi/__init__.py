"""Container Device Interface: the spec model, its validation, the atomic writer, and the discovery of driver files."""
