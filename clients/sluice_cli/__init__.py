"""The `sluice` command. It stands on `sluice_client` alone."""
