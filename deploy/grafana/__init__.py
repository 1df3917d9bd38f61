"""Grafana dashboards: the source, and in `dashboards/` the JSON that Grafana reads."""
