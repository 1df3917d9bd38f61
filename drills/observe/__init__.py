"""Drill: metrics, traces, logs, rules and dashboards show what happens."""
