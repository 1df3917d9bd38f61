"""Benchmark of metrics and traces, in pairs."""
