"""What the plugin needs of the Kubernetes API."""
