"""What nothing needs any more goes, and nothing else."""
