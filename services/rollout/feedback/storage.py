"""Records of feedback: answers that were served, and what people did with them, over one connection.

Rows are staged in temporary tables of the session and taken over by statements that are the same on both databases.
What is there already stays as it is, so that repetition, order and splitting of batches change nothing. The one
exception is what a gateway measured: it completes an answer that an event had made known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from services.rollout.feedback import days
from services.rollout.feedback.rows import (
    Action,
    AnswerRow,
    Ending,
    EventRow,
    ExposureRow,
    ImpressionRow,
    StoredAnswer,
    UserRating,
    day_of,
    microseconds,
)
from services.rollout.storage import tables
from sluice_statistics.answers import AnswerEvent

PAGE = 2000
"""Answers that are read by one statement: memory and the time of a transaction stay small, however long a run is."""
_SIGN = 1 << 63
_TYPES = {
    sa.BigInteger: "int8",
    sa.Integer: "int4",
    sa.SmallInteger: "int2",
    sa.Double: "float8",
    sa.Text: "text",
    sa.LargeBinary: "bytea",
}
_ACTIONS = {action.value: action.name.lower() for action in Action}
_Key = tuple[int, str]
"""Time and query id: the key of an answer, and the order in which answers are read."""


def _names(table: sa.Table) -> str:
    return ", ".join(column.name for column in table.c)


def _taken(table: sa.Table, condition: str, then: str) -> str:
    """The statement that takes staged rows over."""
    return (
        f"INSERT INTO {table.name} ({_names(table)}) SELECT {_names(table)} FROM staged_{table.name} "  # noqa: S608  names of ours
        f"WHERE {condition} ON CONFLICT {then}"
    )


_MEASURED = (
    "ending",
    "seconds",
    "token_count",
    "first_arm_seconds",
    "second_arm_seconds",
    "missing_arm",
    "query",
)
_TAKE_MEASURED = _taken(
    tables.impression,
    "ending <> 0",
    f"(served_time, query_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _MEASURED)} "
    "WHERE impression.ending = 0",
)
# An update that changes nothing would still write each row.
_TAKE_UNMEASURED = _taken(tables.impression, "ending = 0", "DO NOTHING")
_TAKE_EXPOSURES = _taken(tables.exposure, "true", "DO NOTHING")
_TAKE_EVENTS = _taken(tables.event, "true", "DO NOTHING RETURNING day, event_id, tenant")


def stage_tables(connection: sa.Connection) -> None:
    """Make the temporary tables of a session that stores feedback."""
    for table in (tables.impression, tables.exposure, tables.event):
        if connection.dialect.name == "sqlite":
            made = f"AS SELECT {_names(table)} FROM {table.name} WHERE false"  # noqa: S608  names of ours
        else:
            made = f"(LIKE {table.name}) ON COMMIT DELETE ROWS"
        connection.exec_driver_sql(f"CREATE TEMPORARY TABLE IF NOT EXISTS staged_{table.name} {made}")


class FeedbackRecords:
    """Feedback over one connection: to store, within a transaction; to read, each statement for itself."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    # Storing

    def store(
        self, impressions: Iterable[ImpressionRow], exposures: Iterable[ExposureRow], events: Sequence[EventRow]
    ) -> list[int]:
        """Store rows; return the places of the events that were there before, ascending.

        Of events with one id, the first counts. Days have to be prepared.
        """
        answers: dict[_Key, ImpressionRow] = {}
        for row in impressions:
            known = answers.setdefault(row[:2], row)
            if row.ending and not known.ending:
                answers[row[:2]] = row
        places: dict[tuple[int, str, str], int] = {}
        duplicates = [place for place, row in enumerate(events) if places.setdefault(row[:3], place) != place]
        parts = {row[:3]: row for row in exposures}
        # Sorted, so that replicas never wait for each other in a circle.
        self._stage(tables.impression, sorted(answers.values()))
        self._stage(tables.exposure, sorted(parts.values()))
        self._stage(tables.event, sorted(events[place] for place in places.values()))
        measured = any(row.ending for row in answers.values())
        if measured:
            self._connection.exec_driver_sql(_TAKE_MEASURED)
        self._connection.exec_driver_sql(_TAKE_UNMEASURED)
        if parts:
            self._connection.exec_driver_sql(_TAKE_EXPOSURES)
        if places:
            new = {tuple(row) for row in self._connection.exec_driver_sql(_TAKE_EVENTS)}
            duplicates += [place for key, place in places.items() if key not in new]
        if self._connection.dialect.name == "sqlite":  # PostgreSQL does so with the end of the transaction
            for table in (tables.impression, tables.exposure, tables.event):
                self._connection.exec_driver_sql(f"DELETE FROM staged_{table.name}")  # noqa: S608  names of ours
        return sorted(duplicates)

    def prepare(self, wanted: Iterable[int]) -> None:
        """Make room for days (since 1970)."""
        days.make(self._connection, wanted)

    def forget_before(self, day: int, most: int) -> bool:
        """Drop what is older than a day; False if there is more to do than `most` rows, in another transaction."""
        return days.drop_before(self._connection, day, most)

    def _stage(self, table: sa.Table, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        if self._connection.dialect.name == "sqlite":
            marks = ", ".join("?" * len(table.c))
            self._connection.exec_driver_sql(f"INSERT INTO staged_{table.name} VALUES ({marks})", list(rows))  # noqa: S608
            return
        cursor = self._connection.connection.cursor()
        with cursor.copy(f"COPY staged_{table.name} ({_names(table)}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types([_TYPES[type(column.type)] for column in table.c])
            for row in rows:
                copy.write_row(row)

    # Reading

    def answers_of_run(self, run_id: str) -> Iterator[AnswerRow]:
        """Answers of a run, oldest first, with their events.

        Answers that are known by an event alone are left out: they would count those who click more than others.
        """
        part = tables.exposure
        query = sa.select(part).where(part.c.run_id == run_id)
        for page, after, last in self._pages(query, part):
            # Its limit has PostgreSQL look rows up by their keys, where it would else read all answers for each page.
            ours = query.where(*_within(part, after, last)).order_by(*_key(part)).limit(2 * PAGE).subquery()
            measured = sa.select(*_ANSWER).where(
                *_within(tables.impression, after, last), tables.impression.c.ending != Ending.UNKNOWN
            )
            answers = {row[:2]: row for row in self._connection.execute(_joined(measured, tables.impression, ours))}
            events = self._events(_joined(sa.select(tables.event), tables.event, ours), after, last)
            for row in page:
                key = (row.served_time, row.query_id)
                if (answer := answers.get(key)) is not None:
                    yield _answer_row(answer, row.arm, row.teams, events.get(key, ()))

    def answers_of_time(
        self, start_time: float, end_time: float, without_runs: Sequence[str] = ()
    ) -> Iterator[AnswerRow]:
        """Answers of a time but those of some runs, oldest first, with their events; for the history of users."""
        table, part = tables.impression, tables.exposure
        query = sa.select(*_ANSWER).where(
            table.c.ending != Ending.UNKNOWN, table.c.served_time < microseconds(end_time)
        )
        if without_runs:
            query = query.where(~sa.exists().where(part.c.run_id.in_(without_runs), _same(part, table)))
        for page, after, last in self._pages(query, table, microseconds(start_time)):
            events = self._events(sa.select(tables.event), after, last)
            for row in page:
                yield _answer_row(row, "", b"", events.get((row.served_time, row.query_id), ()))

    def ratings_of_run(self, run_id: str) -> list[UserRating]:
        """Ratings of a run, or of a ramp, by arm and user."""
        part, answer, event = tables.exposure, tables.impression, tables.event
        query = (
            sa.select(part.c.arm, answer.c.unit, sa.func.avg(event.c.rating), sa.func.count())
            .select_from(part)
            .join(answer, _same(part, answer))
            .join(event, _same(part, event))
            .where(part.c.run_id == run_id, event.c.action == Action.RATE)
            .group_by(part.c.arm, answer.c.unit)
        )
        found = self._connection.execute(query)
        return [UserRating(arm, unit + _SIGN, float(rating), count) for arm, unit, rating, count in found]

    def answers_between(
        self, start_time: float = 0.0, end_time: float | None = None, collection: str = ""
    ) -> Iterator[StoredAnswer]:
        """All that is known of the answers of a time, oldest first."""
        table = tables.impression
        query = sa.select(table)
        if end_time is not None:
            query = query.where(table.c.served_time < microseconds(end_time))
        if collection:
            query = query.where(table.c.collection == collection)
        for page, after, last in self._pages(query, table, microseconds(start_time)):
            events = self._events(sa.select(tables.event), after, last)
            for row in page:
                found = events.get((row.served_time, row.query_id), ())
                yield StoredAnswer(ImpressionRow._make(row), tuple(EventRow._make(event) for event in found))

    def _pages(
        self, query: sa.Select[Any], table: sa.Table, start: int = 0
    ) -> Iterator[tuple[Sequence[Any], _Key, _Key]]:
        """Pages of a query in the order of the answers' keys, each with the keys before its first and of its last."""
        after: _Key = (start, "")
        while True:
            rest = query.where(*_within(table, after)).order_by(*_key(table)).limit(PAGE)
            page = self._connection.execute(rest).all()
            if not page:
                return
            last = (page[-1].served_time, page[-1].query_id)
            yield page, after, last
            if len(page) < PAGE:
                return
            after = last

    def _events(self, query: sa.Select[Any], after: _Key, last: _Key) -> dict[_Key, list[Any]]:
        """Events of the answers between two keys, in the order of their time."""
        event = tables.event
        found = self._connection.execute(
            query.where(event.c.day.between(day_of(after[0]), day_of(last[0])), *_within(event, after, last)).order_by(
                *_key(event), event.c.time, event.c.event_id
            )
        )
        return {key: list(rows) for key, rows in groupby(found, lambda row: (row.served_time, row.query_id))}


_ANSWER = tuple(
    tables.impression.c[name]
    for name in (
        "served_time",
        "query_id",
        "unit",
        "first_position",
        "ending",
        "seconds",
        "token_count",
        "first_arm_seconds",
        "second_arm_seconds",
        "missing_arm",
    )
)


def _key(table: sa.FromClause) -> tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]]:
    return table.c.served_time, table.c.query_id


def _within(table: sa.FromClause, after: _Key, last: _Key | None = None) -> list[sa.ColumnElement[bool]]:
    """Conditions on the keys of answers; those on the time alone tell PostgreSQL which days to leave out."""
    time, key = table.c.served_time, sa.tuple_(*_key(table))
    conditions = [time >= after[0], key > sa.tuple_(*after)]
    return conditions if last is None else [*conditions, time <= last[0], key <= sa.tuple_(*last)]


def _joined(query: sa.Select[Any], table: sa.Table, others: sa.FromClause) -> sa.Select[Any]:
    return query.select_from(table).join(others, _same(table, others))


def _same(one: sa.FromClause, other: sa.FromClause) -> sa.ColumnElement[bool]:
    return sa.and_(one.c.served_time == other.c.served_time, one.c.query_id == other.c.query_id)


def _answer_row(row: Any, arm: str, teams: bytes, events: Iterable[Any]) -> AnswerRow:
    return AnswerRow(
        row.unit + _SIGN,
        arm,
        teams,
        row.served_time / 1e6,
        Ending(row.ending),
        row.seconds,
        row.token_count,
        row.first_position,
        (row.first_arm_seconds, row.second_arm_seconds),
        row.missing_arm,
        tuple(AnswerEvent(_ACTIONS[event.action], event.object_id, event.position, event.rating) for event in events),
    )
