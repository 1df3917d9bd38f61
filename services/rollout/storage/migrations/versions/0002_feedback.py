"""Answers that were served and what people did with them; PostgreSQL keeps each day in partitions of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of feedback."""
    op.create_table(
        "impression",
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
    op.create_table(
        "exposure",
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("served_time", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("query_id", sa.Text, primary_key=True),
        sa.Column("arm", sa.Text, nullable=False),
        sa.Column("teams", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
        postgresql_partition_by="RANGE (served_time)",
    )
    op.create_table(
        "event",
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
        sqlite_with_rowid=False,
        postgresql_partition_by="RANGE (day)",
    )
    op.create_index("event_of_answer", "event", ["served_time", "query_id"])
