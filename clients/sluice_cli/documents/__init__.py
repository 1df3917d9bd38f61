"""`sluice documents` and `sluice delete`."""
