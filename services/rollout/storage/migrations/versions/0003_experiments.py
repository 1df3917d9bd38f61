"""Experiments, their findings over time, and what was measured before them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "experiment",
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
    op.create_table(
        "experiment_point",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("experiment", sa.String(64), nullable=False),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("findings", sa.JSON, nullable=False),
    )
    op.create_index("ix_experiment_point_run", "experiment_point", ["experiment", "run"])
    op.create_table(
        "experiment_evidence",
        sa.Column("experiment", sa.String(64), primary_key=True),
        sa.Column("step", sa.String(16), primary_key=True),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("result_json", sa.Text, nullable=False),
    )
