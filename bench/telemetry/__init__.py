"""What metrics and traces cost, in pairs."""
