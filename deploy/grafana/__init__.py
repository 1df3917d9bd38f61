"""Grafana's dashboards: their source is here, the JSON that Grafana reads in `dashboards/`."""
