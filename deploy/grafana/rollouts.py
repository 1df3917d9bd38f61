"""Dashboard of rollouts: exposure of features, decisions and evidence, and gateways' snapshots."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from deploy.grafana.panels import Limits, Panel, Query, dashboard_of, lines, listing, states
from deploy.grafana.promql import HERE, each, quantile, rate, worst

UID = "sluice-rollouts"


def built() -> dashboard.Dashboard:
    """Build four rows."""
    return dashboard_of(
        UID,
        "Sluice: rollouts",
        "Features on their way to users: how many they reach, what speaks against them, and who took them back.",
        {
            "Exposure": _exposure(),
            "Evidence and decisions": _evidence(),
            "Experiments and feedback": _experiments(),
            "Snapshots": _snapshots(),
        },
    )


def _exposure() -> list[Panel]:
    exposures = "sluice_rollout_exposures_total"
    return [
        lines(
            "Percentage",
            "Share of users that each feature reaches.",
            Query(worst("sluice_rollout_percentage", by="feature"), "{{feature}}"),
            unit="percent",
        ),
        lines(
            "Searches by arm",
            "treatment: with the feature. control: as many users without it. standard: all others, not compared.",
            Query(rate(exposures, by="feature, arm"), "{{feature}} {{arm}}"),
            unit="reqps",
        ),
        lines(
            "Treatment for each search of control",
            "1 where arms are as large as they should be. Heavy users move it: the test of sample ratios counts users.",
            Query(
                each(rate(exposures, 'arm="treatment"', by="feature"), rate(exposures, 'arm="control"', by="feature")),
                "{{feature}}",
            ),
            unit="short",
            alert="SluiceSampleRatioMismatch",
        ),
        listing(
            "Features",
            "The state of every feature.",
            Query(f"{worst('sluice_rollout_state', by='feature, state')} == 1", ""),
            columns={"feature": "Feature", "state": "State"},
        ),
        lines(
            "Searches without a user",
            "They get what is standard and are left out of every comparison.",
            Query(rate("sluice_rollout_anonymous_requests_total"), "without a user"),
            unit="reqps",
        ),
        lines(
            "Shadow searches",
            "Searches of control that also ran with the feature, off the reply's path, and how the pairs were judged.",
            Query(rate("sluice_shadow_searches_total", by="outcome"), "{{outcome}}"),
            Query(rate("sluice_shadow_judgements_total", by="judgement"), "judged: {{judgement}}"),
            unit="reqps",
        ),
    ]


def _evidence() -> list[Panel]:
    return [
        lines(
            "Evidence against a feature",
            "Logarithm of the e-value of each guardrail, as a part of its threshold: at 1 the feature is taken back.",
            Query(
                each(
                    worst("sluice_rollout_log_evidence", by="feature, guardrail"),
                    worst("sluice_rollout_log_threshold", by="feature, guardrail"),
                ),
                "{{feature}} {{guardrail}}",
            ),
            unit="short",
            limits=Limits(0.5, 1),
        ),
        lines(
            "Decisions",
            "What was decided within five minutes, by Sluice or by people.",
            Query(
                f"sum by (feature, decision, actor) (increase(sluice_rollout_decisions_total{{{HERE}}}[5m]))",
                "{{feature}} {{decision}} by {{actor}}",
            ),
            unit="short",
        ),
        lines(
            "Time to zero exposure",
            "P99 of the time from the decision to take a feature back to the last gateway that says it has.",
            Query(quantile(0.99, "sluice_rollout_zero_exposure_seconds", by="feature"), "{{feature}}"),
            unit="s",
            limits=Limits(2),
            alert="SluiceRollbackUnacknowledged",
        ),
        states(
            "Ramps that are held",
            "users missing: from an arm, so that nothing about arms can be believed. evidence missing: for a while.",
            Query(worst("sluice_rollout_sample_ratio_mismatch", by="feature"), "{{feature}}: users missing"),
            Query(worst("sluice_rollout_stale_data", by="feature"), "{{feature}}: evidence missing"),
            names={0: ("no", "green"), 1: ("yes", "red")},
            alert="SluiceSampleRatioMismatch",
        ),
        lines(
            "Reports of evidence",
            "Reports of gateways to the rollout service. What fails is sent again.",
            Query(rate("sluice_rollout_evidence_reports_total", by="outcome"), "{{outcome}}"),
            unit="reqps",
        ),
        lines(
            "Evidence lost",
            "Requests and units a second that a gateway had no room for until the service took its reports again.",
            Query(rate("sluice_rollout_evidence_lost_total", by="kind"), "{{kind}}"),
            unit="short",
        ),
    ]


def _experiments() -> list[Panel]:
    return [
        lines(
            "Searches in experiments",
            "Searches of users who are a part of an experiment, by arm; interleaved answers have the results of two.",
            Query(rate("sluice_experiment_searches_total", by="experiment, arm"), "{{experiment}} {{arm}}"),
            unit="reqps",
        ),
        lines(
            "Events on answers",
            "What people did with answers: stored, known already, or rejected with the reason. Forged and late ones "
            "show here first.",
            Query(rate("sluice_feedback_events_total", by="outcome"), "{{outcome}}"),
            unit="short",
        ),
        lines(
            "Answers reported",
            "Answers that gateways have the rollout service store. What failed is sent again; what is lost is lost for "
            "all arms alike.",
            Query(rate("sluice_feedback_impressions_total", by="outcome"), "{{outcome}}"),
            unit="short",
        ),
        lines(
            "Users of experiments",
            "Users whose answers were analysed, of every experiment that runs.",
            Query(worst("sluice_experiment_users", by="experiment"), "{{experiment}}"),
            unit="short",
        ),
        lines(
            "Age of the newest analysis",
            "Nothing ends an experiment by itself while it is not analysed.",
            Query(f"time() - {worst('sluice_experiment_analysis_time_seconds', by='experiment')}", "{{experiment}}"),
            unit="s",
            limits=Limits(1800),
            alert="SluiceExperimentNotAnalysed",
        ),
        lines(
            "Verdicts",
            "Runs that ended within five minutes, by their evidence or their time, with the kind of evidence.",
            Query(
                f"sum by (verdict, cause) (increase(sluice_experiment_verdicts_total{{{HERE}}}[5m]))",
                "{{verdict}} by {{cause}}",
            ),
            unit="short",
            alert="SluiceExperimentStopped",
        ),
    ]


def _snapshots() -> list[Panel]:
    return [
        lines(
            "Age of snapshots",
            "How long ago each gateway last heard from the rollout service. Where leases end, ramps fall back.",
            Query(worst("sluice_rollout_snapshot_age_seconds", by="instance"), "{{instance}}"),
            unit="s",
            limits=Limits(30),
            alert="SluiceSnapshotStale",
        ),
        lines(
            "Versions behind",
            "How many snapshots each gateway is behind the newest.",
            Query(
                f"scalar({worst('sluice_rollout_snapshot_newest_version')})"
                f" - {worst('sluice_rollout_snapshot_version', by='instance')}",
                "{{instance}}",
            ),
            unit="short",
            alert="SluiceSnapshotStale",
        ),
        lines(
            "Gateways that have yet to acknowledge",
            "Live gateways that have not said that they serve the newest rollback or kill.",
            Query(worst("sluice_rollout_unacknowledged_gateways", by="feature"), "{{feature}}"),
            unit="short",
            limits=Limits(1),
            alert="SluiceRollbackUnacknowledged",
        ),
        listing(
            "Features that are not served",
            "Quarantined by the service or by a gateway, because they make no sense to it. The others are served.",
            Query(
                f"{worst('sluice_rollout_quarantined_features', by='feature, job, instance')} > 0"
                f" or {worst('sluice_rollout_quarantined', by='feature, job, instance')} > 0",
                "",
            ),
            columns={"feature": "Feature", "job": "By", "instance": "Replica"},
            alert="SluiceFeatureQuarantined",
        ),
        listing(
            "Features killed on one gateway",
            "Held off by a gateway's own override, whatever the snapshot says.",
            Query(f"{worst('sluice_rollout_locally_killed', by='feature, instance')} > 0", ""),
            columns={"feature": "Feature", "instance": "Gateway"},
        ),
        lines(
            "Snapshots refused",
            "Snapshots that gateways did not take, a second: they were older, or damaged.",
            Query(rate("sluice_rollout_snapshots_refused_total", by="reason"), "{{reason}}"),
            unit="short",
        ),
    ]
