"""`sluice search` and `sluice compare`."""
