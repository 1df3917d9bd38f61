"""Offline evaluation and replay: configurations are compared before a user sees them."""
