"""`sluice index`: sources, checkpoints and rejects."""
