"""`sluice config` and `sluice doctor`."""
