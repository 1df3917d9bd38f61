"""`sluice collections`, `reindex`, `verify`, `rollback` and `snapshot`."""
