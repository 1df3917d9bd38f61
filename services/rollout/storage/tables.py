"""Tables of the control plane. Alembic's migrations alone make them.

Times are seconds since 1970, those of feedback whole microseconds. A hashed unit is 64 bits without a sign; databases
know only signed ones, so it is stored minus 2^63.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

feature = sa.Table(
    "feature",
    metadata,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("salt", sa.Text, nullable=False),
    sa.Column("overrides", sa.JSON, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("treatment_ppm", sa.Integer, nullable=False),
    sa.Column("plan", sa.JSON(none_as_null=True)),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("step_start_time", sa.Double),
    sa.Column("breach_count", sa.Integer, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("hold_cause", sa.String(16)),
    sa.Column("run", sa.Integer, nullable=False),
)

run = sa.Table(
    "run",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("feature", sa.String(64), nullable=False, index=True),
    sa.Column("treatment_ppm", sa.Integer, nullable=False),
    sa.Column("control_ppm", sa.Integer, nullable=False),
    sa.Column("start_time", sa.Double, nullable=False),
    sa.Column("end_time", sa.Double, index=True),
    sa.Column("latency_threshold", sa.Double),
    sa.Column("window_start_time", sa.Double, nullable=False),
    sa.Column("watched_seconds", sa.Double, nullable=False),
    sa.Column("misplaced_unit_count", sa.BigInteger, nullable=False),
    sa.Column("point_time", sa.Double, nullable=False),
    sa.Column("arms", sa.JSON, nullable=False),
    # A number is never given twice, so that late evidence of an old run cannot be taken for that of a new one.
    sqlite_autoincrement=True,
)

# Distinct units of runs under way, and those that had a bad event; gone when the run ends.
unit = sa.Table(
    "unit",
    metadata,
    sa.Column("run", sa.Integer, primary_key=True),
    sa.Column("unit", sa.BigInteger, primary_key=True),
    sqlite_with_rowid=False,
)
bad_unit = sa.Table(
    "bad_unit",
    metadata,
    sa.Column("run", sa.Integer, primary_key=True),
    sa.Column("guardrail", sa.String(16), primary_key=True),
    sa.Column("unit", sa.BigInteger, primary_key=True),
    sqlite_with_rowid=False,
)

point = sa.Table(
    "point",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run", sa.Integer, nullable=False, index=True),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("findings", sa.JSON, nullable=False),
)

# The database itself refuses to change or delete a row of these two.
history = sa.Table(
    "history",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("feature", sa.String(64), nullable=False, index=True),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("old_treatment_ppm", sa.Integer, nullable=False),
    sa.Column("new_treatment_ppm", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("snapshot_version", sa.BigInteger, nullable=False),
    sa.Column("findings", sa.JSON, nullable=False),
    sqlite_autoincrement=True,
)
history_done = sa.Table(
    "history_done",
    metadata,
    sa.Column("number", sa.Integer, sa.ForeignKey("history.number"), primary_key=True, autoincrement=False),
    sa.Column("time", sa.Double, nullable=False),
)

snapshot = sa.Table(
    "snapshot",
    metadata,
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("content_hash", sa.String(64), nullable=False),
    sa.Column("create_time", sa.Double, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)

command = sa.Table(
    "command",
    metadata,
    sa.Column("command_id", sa.String(128), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("time", sa.Double, nullable=False),
    # What the command returned: a feature, or an experiment.
    sa.Column("feature", sa.JSON, nullable=False),
)

gateway = sa.Table(
    "gateway",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("last_seen_time", sa.Double, nullable=False),
    sa.Column("quarantined", sa.JSON, nullable=False),
    sa.Column("locally_killed", sa.JSON, nullable=False),
)

report = sa.Table(
    "report",
    metadata,
    sa.Column("gateway", sa.String(128), primary_key=True),
    sa.Column("incarnation", sa.BigInteger, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
)

experiment = sa.Table(
    "experiment",
    metadata,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("plan", sa.JSON, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("run", sa.Integer, nullable=False),
    sa.Column("first_bucket", sa.Integer, nullable=False),
    sa.Column("history_time", sa.Double),
    sa.Column("start_time", sa.Double),
    sa.Column("end_time", sa.Double),
    sa.Column("verdict", sa.String(16)),
    sa.Column("reasons", sa.JSON, nullable=False),
    sa.Column("arm", sa.String(64), nullable=False),
)
experiment_point = sa.Table(
    "experiment_point",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("experiment", sa.String(64), nullable=False),
    sa.Column("run", sa.Integer, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("findings", sa.JSON, nullable=False),
    sa.Index("ix_experiment_point_run", "experiment", "run"),
)
experiment_evidence = sa.Table(
    "experiment_evidence",
    metadata,
    sa.Column("experiment", sa.String(64), primary_key=True),
    sa.Column("step", sa.String(16), primary_key=True),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("result_json", sa.Text, nullable=False),
)

# Feedback. PostgreSQL keeps each day in partitions of its own (services/rollout/feedback/days.py). The key of an answer
# is the time at which it was served and its query id: callers may give one id to several requests.
impression = sa.Table(
    "impression",
    metadata,
    sa.Column("served_time", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("query_id", sa.Text, primary_key=True),
    sa.Column("collection", sa.Text, nullable=False),
    sa.Column("unit", sa.BigInteger, nullable=False),
    sa.Column("first_position", sa.Integer, nullable=False),
    sa.Column("ending", sa.SmallInteger, nullable=False),
    sa.Column("seconds", sa.Double),
    sa.Column("token_count", sa.BigInteger, nullable=False),
    sa.Column("first_arm_seconds", sa.Double),
    sa.Column("second_arm_seconds", sa.Double),
    sa.Column("missing_arm", sa.Text, nullable=False),
    sa.Column("query", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    postgresql_partition_by="RANGE (served_time)",
)
exposure = sa.Table(
    "exposure",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("served_time", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("query_id", sa.Text, primary_key=True),
    sa.Column("arm", sa.Text, nullable=False),
    sa.Column("teams", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (served_time)",
)
event = sa.Table(
    "event",
    metadata,
    # Days since 1970, of the answer.
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("served_time", sa.BigInteger, nullable=False),
    sa.Column("query_id", sa.Text, nullable=False),
    sa.Column("action", sa.SmallInteger, nullable=False),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("object_id", sa.Text, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("client", sa.Text, nullable=False),
    sa.Column("session", sa.Text, nullable=False),
    sa.Column("rating", sa.Double),
    sa.Column("aspect", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Index("event_of_answer", "served_time", "query_id"),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (day)",
)
