"""The first tables, and a history that the database itself protects from changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_APPEND_ONLY = ("history", "history_done")


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "feature",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("salt", sa.Text, nullable=False),
        sa.Column("overrides", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("treatment_ppm", sa.Integer, nullable=False),
        sa.Column("plan", sa.JSON),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("step_start_time", sa.Double),
        sa.Column("breach_count", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("hold_cause", sa.String(16)),
        sa.Column("run", sa.Integer, nullable=False),
    )
    op.create_table(
        "run",
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
        sqlite_autoincrement=True,
    )
    op.create_table(
        "unit",
        sa.Column("run", sa.Integer, primary_key=True),
        sa.Column("unit", sa.BigInteger, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "bad_unit",
        sa.Column("run", sa.Integer, primary_key=True),
        sa.Column("guardrail", sa.String(16), primary_key=True),
        sa.Column("unit", sa.BigInteger, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "point",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("run", sa.Integer, nullable=False, index=True),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("findings", sa.JSON, nullable=False),
    )
    op.create_table(
        "history",
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
    op.create_table(
        "history_done",
        sa.Column("number", sa.Integer, sa.ForeignKey("history.number"), primary_key=True, autoincrement=False),
        sa.Column("time", sa.Double, nullable=False),
    )
    op.create_table(
        "snapshot",
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("create_time", sa.Double, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "command",
        sa.Column("command_id", sa.String(128), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("feature", sa.JSON, nullable=False),
    )
    op.create_table(
        "gateway",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("last_seen_time", sa.Double, nullable=False),
        sa.Column("quarantined", sa.JSON, nullable=False),
        sa.Column("locally_killed", sa.JSON, nullable=False),
    )
    op.create_table(
        "report",
        sa.Column("gateway", sa.String(128), primary_key=True),
        sa.Column("incarnation", sa.BigInteger, primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
    )
    for table in _APPEND_ONLY:
        _append_only(table)


def _append_only(table: str) -> None:
    refusal = f"{table} is append-only"
    if op.get_bind().dialect.name == "sqlite":
        for event in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_{event.lower()} BEFORE {event} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
            )
        return
    op.execute(
        f"CREATE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{refusal}'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_refuse()"
    )
