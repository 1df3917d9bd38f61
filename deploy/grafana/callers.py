"""Panels on callers: what is refused to them, and the log of what they change."""

from __future__ import annotations

from deploy.grafana.panels import Panel, Query, lines
from deploy.grafana.promql import HERE, rate


def panels() -> list[Panel]:
    """Build the row of callers."""
    return [
        lines(
            "Refused for their callers",
            "Calls without a credential that holds (UNAUTHENTICATED), or that no policy permits (PERMISSION_DENIED).",
            Query(
                rate(
                    "grpc_server_handled_total", 'grpc_code=~"UNAUTHENTICATED|PERMISSION_DENIED"', by="job, grpc_code"
                ),
                "{{job}} {{grpc_code}}",
            ),
            unit="reqps",
        ),
        lines(
            "Refused by quotas",
            "Calls of callers, or of all callers of a tenant, that had used up a quota. The audit log says whose.",
            Query(rate("sluice_quota_refusals_total", by="quota, scope"), "{{quota}} of a {{scope}}"),
            unit="reqps",
        ),
        lines(
            "Audit log",
            "Lines written, and lines that found no room and are lost.",
            Query(rate("sluice_audit_lines_total", by="job"), "{{job}}"),
            Query(rate("sluice_audit_lines_dropped_total", by="job"), "{{job}} lost"),
            Query(f"max by (job) (sluice_audit_failing{{{HERE}}})", "{{job}} cannot write"),
            unit="short",
            alert="SluiceAuditNotWritten",
        ),
    ]
