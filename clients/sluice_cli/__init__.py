"""The `sluice` command: ask, index, delete, and see how things are. Stands on `sluice_client` alone."""
