"""Days of feedback: partitions of PostgreSQL, and the end of days that are no longer kept.

PostgreSQL drops a day by dropping its partitions. On SQLite its rows are deleted, a slice at a time.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from services.rollout.feedback.rows import DAY_MICROSECONDS, date_of
from services.rollout.storage import tables

_TABLES = (tables.impression, tables.exposure, tables.event)
_LOCK_SECONDS = 1
"""Longest wait for a lock on a whole table: whoever stores feedback waits behind it."""


def make(connection: sa.Connection, days: Iterable[int]) -> None:
    """Make the partitions of days, where there are none."""
    if connection.dialect.name != "postgresql":
        return
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")
    for day in days:
        for table in _TABLES:
            unit = 1 if table is tables.event else DAY_MICROSECONDS
            connection.exec_driver_sql(
                f"CREATE TABLE IF NOT EXISTS {table.name}_{date_of(day)} PARTITION OF {table.name} "
                f"FOR VALUES FROM ({day * unit}) TO ({(day + 1) * unit})"
            )


def drop_before(connection: sa.Connection, day: int, most: int) -> bool:
    """Drop what is older than a day; False if there is more to do than `most` rows, in another transaction."""
    if connection.dialect.name == "postgresql":
        return _drop_partitions(connection, day)
    return _delete_rows(connection, day, most)


def _drop_partitions(connection: sa.Connection, day: int) -> bool:
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")
    for table in _TABLES:
        partitions = connection.execute(
            sa.text(
                "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid "
                "WHERE inhparent = CAST(:parent AS regclass)"
            ),
            {"parent": table.name},
        ).scalars()
        # Names end with the date, so they sort as days do.
        for name in sorted(name for name in partitions if name < f"{table.name}_{date_of(day)}"):
            connection.exec_driver_sql(f"DROP TABLE {name}")
    return True


def _delete_rows(connection: sa.Connection, day: int, most: int) -> bool:
    events, exposures, impressions = tables.event, tables.exposure, tables.impression
    oldest = day * DAY_MICROSECONDS
    old = [(events, events.c.day < day), (impressions, impressions.c.served_time < oldest)]
    # The key of exposures begins with the run: a scan of all of them would hold up every writer.
    run = ""
    while run := _next_run(connection, run):
        old.append((exposures, sa.and_(exposures.c.run_id == run, exposures.c.served_time < oldest)))
    left = most
    for table, condition in old:
        keys = list(table.primary_key.columns)
        some = sa.select(*keys).where(condition).limit(left)
        left -= connection.execute(sa.delete(table).where(sa.tuple_(*keys).in_(some))).rowcount
        if left <= 0:
            return False
    return True


def _next_run(connection: sa.Connection, run: str) -> str:
    column = tables.exposure.c.run_id
    return connection.execute(sa.select(sa.func.min(column)).where(column > run)).scalar_one() or ""
