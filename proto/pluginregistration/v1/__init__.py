"""Plugin registration v1; the proto package is `pluginregistration`."""
