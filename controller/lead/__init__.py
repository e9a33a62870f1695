"""Who of the replicas leads."""
