"""Experiments: which of several configurations people prefer."""
