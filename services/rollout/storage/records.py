"""Records of the control plane, read and written within one transaction of the caller."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.dialects import postgresql, sqlite

from services.chassis.timing import timestamp
from services.experiment.flags import Overrides
from services.experiment.guardrails import Guardrail
from services.rollout.decisions import Run
from services.rollout.evidence import Findings
from services.rollout.features import Feature, FeatureState, HistoryAction
from services.rollout.gateways import Gateway
from services.rollout.snapshots import SealedSnapshot
from services.rollout.storage import tables
from services.rollout.storage.rows import inserted_number, parsed, readable, text
from sluice.rollout.v1 import rollout_pb2 as pb

KEPT_SNAPSHOTS = 100
_SIGN = 1 << 63
_BATCH = 5000


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """An event in the history. Number and done_time come from the store."""

    time: float
    feature: str
    action: HistoryAction
    actor: str
    reason: str
    old_treatment_ppm: int
    new_treatment_ppm: int
    state: FeatureState
    snapshot_version: int
    findings: Findings = field(default_factory=Findings)
    number: int = 0
    done_time: float | None = None

    def to_proto(self) -> pb.HistoryEntry:
        """Write the entry."""
        return pb.HistoryEntry(
            number=self.number,
            time=timestamp(self.time),
            feature=self.feature,
            action=pb.HistoryAction.Value(f"HISTORY_ACTION_{self.action.name}"),
            actor=self.actor,
            reason=self.reason,
            old_treatment_ppm=self.old_treatment_ppm,
            new_treatment_ppm=self.new_treatment_ppm,
            state=self.state.to_proto(),
            snapshot_version=self.snapshot_version,
            done_time=None if self.done_time is None else timestamp(self.done_time),
            guardrails=[row.to_proto() for row in self.findings.guardrails],
            arms=[arm.to_proto() for arm in self.findings.arms],
        )


@dataclass(frozen=True, slots=True)
class Point:
    """The evidence of a run at one moment."""

    time: float
    run: int
    findings: Findings


FEATURE = TypeAdapter(Feature)
_RUN = TypeAdapter(Run)
_FINDINGS = TypeAdapter(Findings)
_ENTRY = TypeAdapter(HistoryEntry)
_GATEWAY = TypeAdapter(Gateway)
_POINT = TypeAdapter(Point)


class Records:
    """All records, over one connection within one transaction. Other rooms keep theirs over the same connection."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection

    # Features

    def features(self) -> list[Feature]:
        """All features, in the order of their creation.

        A damaged row does not take the others with it: it is read as a feature that is rolled back and switches
        nothing, or killed if it says so, and that no snapshot serves.
        """
        return [
            _feature(row) for row in self.connection.execute(text(tables.feature).order_by(tables.feature.c.position))
        ]

    def feature(self, name: str) -> Feature | None:
        """Feature of that name, or None."""
        row = self.connection.execute(text(tables.feature).where(tables.feature.c.name == name)).one_or_none()
        return None if row is None else _feature(row)

    def add(self, feature: Feature) -> None:
        """Add a feature, the last in order."""
        self.connection.execute(sa.insert(tables.feature).values(**FEATURE.dump_python(feature, mode="json")))

    def save(self, feature: Feature) -> None:
        """Write a feature as it is now."""
        table = tables.feature
        self.connection.execute(
            sa.update(table).where(table.c.name == feature.name).values(**FEATURE.dump_python(feature, mode="json"))
        )

    # Runs of evidence

    def begin_run(self, feature: Feature, now: float, latency_threshold: float | None) -> Run:
        """Begin a run for a feature's share."""
        run = Run(0, feature.name, feature.treatment_ppm, feature.control_ppm, now, None, latency_threshold, now)
        result = self.connection.execute(sa.insert(tables.run).values(**_run_row(run)))
        run.number = inserted_number(result)
        return run

    def run(self, number: int) -> Run | None:
        """Run of that number, or None."""
        found = self.connection.execute(text(tables.run).where(tables.run.c.number == number))
        return next(iter(readable(found, tables.run, _RUN)), None)

    def runs(self, feature: str | None = None) -> list[Run]:
        """All runs of a feature, oldest first; without one, those under way."""
        rows = tables.run.c.end_time.is_(None) if feature is None else tables.run.c.feature == feature
        found = self.connection.execute(text(tables.run).where(rows).order_by(tables.run.c.number))
        return readable(found, tables.run, _RUN)

    def save_run(self, run: Run) -> None:
        """Write a run as it is now."""
        table = tables.run
        self.connection.execute(sa.update(table).where(table.c.number == run.number).values(**_run_row(run)))

    def add_units(self, run: int, units: Sequence[int]) -> list[int]:
        """Keep units of a run; return those that no gateway had reported before."""
        return self._add_new(tables.unit, units, run=run)

    def add_bad_units(self, run: int, guardrail: Guardrail, units: Sequence[int]) -> list[int]:
        """Keep units with a bad event; return those whose first one it was, over all gateways."""
        return self._add_new(tables.bad_unit, units, run=run, guardrail=guardrail.value)

    def _add_new(self, table: sa.Table, units: Sequence[int], **key: Any) -> list[int]:
        same = sa.and_(*(table.c[name] == value for name, value in key.items()))
        wanted = dict.fromkeys(units)
        new: list[int] = []
        stored = [unit - _SIGN for unit in wanted]
        for start in range(0, len(stored), _BATCH):
            part = stored[start : start + _BATCH]
            query = sa.select(table.c.unit).where(same, table.c.unit.in_(part))
            known = set(self.connection.execute(query).scalars())
            fresh = [unit for unit in part if unit not in known]
            if fresh:
                self.connection.execute(sa.insert(table), [{**key, "unit": unit} for unit in fresh])
            new += [unit + _SIGN for unit in fresh]
        return new

    def purge_units(self, most: int) -> int:
        """Delete at most `most` units of runs that ended, so that nothing waits long; return their number."""
        ended = sa.select(tables.run.c.number).where(tables.run.c.end_time.is_not(None))
        deleted = 0
        for table in (tables.unit, tables.bad_unit):
            keys = list(table.primary_key.columns)
            some = sa.select(*keys).where(table.c.run.in_(ended)).limit(most)
            deleted += self.connection.execute(sa.delete(table).where(sa.tuple_(*keys).in_(some))).rowcount
        return deleted

    def add_point(self, run: int, time: float, findings: Findings) -> None:
        """Add a point to a run's curve."""
        kept = _FINDINGS.dump_python(findings, mode="json")
        self.connection.execute(sa.insert(tables.point).values(run=run, time=time, findings=kept))

    def points(self, feature: str) -> list[Point]:
        """Points of the curves of a feature's runs, oldest first."""
        ours = sa.select(tables.run.c.number).where(tables.run.c.feature == feature)
        query = text(tables.point).where(tables.point.c.run.in_(ours)).order_by(tables.point.c.number)
        return readable(self.connection.execute(query), tables.point, _POINT)

    # History

    def add_history(self, entry: HistoryEntry) -> int:
        """Add an entry; return its number."""
        values = _ENTRY.dump_python(entry, mode="json")
        del values["number"], values["done_time"]
        result = self.connection.execute(sa.insert(tables.history).values(**values))
        return inserted_number(result)

    def history(self, feature: str = "", after: int = 0, most: int | None = None) -> list[HistoryEntry]:
        """Entries after an entry, oldest first; of one feature, or of all."""
        query = _HISTORY.where(tables.history.c.number > after).order_by(tables.history.c.number).limit(most)
        return self._entries(query, feature)

    def newest_history(self, feature: str, most: int) -> list[HistoryEntry]:
        """The newest entries of a feature, oldest first."""
        return self._entries(_HISTORY.order_by(tables.history.c.number.desc()).limit(most), feature)[::-1]

    def _entries(self, query: sa.Select[Any], feature: str) -> list[HistoryEntry]:
        if feature:
            query = query.where(tables.history.c.feature == feature)
        return readable(self.connection.execute(query), tables.history, _ENTRY)

    def undone(self) -> list[HistoryEntry]:
        """Entries whose snapshot is not known to be served by every live gateway.

        Versions grow with the entries, so an entry is done no later than those after it.
        """
        last = self.connection.execute(sa.select(sa.func.max(tables.history_done.c.number))).scalar_one()
        return self.history(after=last or 0)

    def done(self, number: int, time: float) -> None:
        """Note that every live gateway serves the change of an entry."""
        self.connection.execute(sa.insert(tables.history_done).values(number=number, time=time))

    # Snapshots

    def publish(self, snapshot: SealedSnapshot) -> None:
        """Add a snapshot, and delete very old ones."""
        table = tables.snapshot
        self.connection.execute(sa.insert(table).values(**dataclasses.asdict(snapshot)))
        self.connection.execute(sa.delete(table).where(table.c.version <= snapshot.version - KEPT_SNAPSHOTS))

    def newest_snapshot(self) -> SealedSnapshot | None:
        """Newest snapshot, or None."""
        query = sa.select(tables.snapshot).order_by(tables.snapshot.c.version.desc()).limit(1)
        row = self.connection.execute(query).one_or_none()
        return None if row is None else SealedSnapshot(row.version, row.content_hash, row.create_time, row.body)

    # Commands

    def remembered(self, command_id: str) -> tuple[str, Any] | None:
        """Fingerprint of a command, and what it returned, as JSON."""
        table = tables.command
        row = self.connection.execute(sa.select(table).where(table.c.command_id == command_id)).one_or_none()
        return None if row is None else (row.fingerprint, row.feature)

    def remember(self, command_id: str, fingerprint: str, time: float, returned: Any) -> None:
        """Keep what a command returned, as JSON."""
        values = {"command_id": command_id, "fingerprint": fingerprint, "time": time, "feature": returned}
        self.connection.execute(sa.insert(tables.command).values(**values))

    # Gateways

    def gateways(self) -> list[Gateway]:
        """Known gateways, by name."""
        query = text(tables.gateway).order_by(tables.gateway.c.name)
        return readable(self.connection.execute(query), tables.gateway, _GATEWAY)

    def save_gateway(self, gateway: Gateway) -> None:
        """Write a gateway as it is now."""
        values = _GATEWAY.dump_python(gateway, mode="json")
        table = tables.gateway
        del values["name"]
        self.connection.execute(
            self._insert(table)
            .values(name=gateway.name, **values)
            .on_conflict_do_update(index_elements=["name"], set_=values)
        )

    def touch_gateway(self, name: str, time: float) -> None:
        """Note the time of a word from a gateway."""
        table = tables.gateway
        self.connection.execute(sa.update(table).where(table.c.name == name).values(last_seen_time=time))

    def forget_gateways(self, names: Iterable[str], reports_before: float) -> None:
        """Forget gateways, and the sequence numbers of processes that ended long ago."""
        self.connection.execute(sa.delete(tables.gateway).where(tables.gateway.c.name.in_(list(names))))
        self.connection.execute(sa.delete(tables.report).where(tables.report.c.time < reports_before))

    def is_new_report(self, gateway: str, incarnation: int, sequence: int, time: float) -> bool:
        """True if a report was not seen before; it counts as seen from now on."""
        table = tables.report
        life = {"gateway": gateway, "incarnation": incarnation - _SIGN}
        same = sa.and_(*(table.c[name] == value for name, value in life.items()))
        last = self.connection.execute(sa.select(table.c.sequence).where(same)).scalar_one_or_none()
        if last is not None and sequence <= last:
            return False
        values = {"sequence": sequence, "time": time}
        if last is None:
            self.connection.execute(sa.insert(table).values(**life, **values))
        else:
            self.connection.execute(sa.update(table).where(same).values(**values))
        return True

    def _insert(self, table: sa.Table) -> Any:
        of = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[self.connection.dialect.name]
        return of(table)


_HISTORY = text(tables.history, tables.history_done.c.time.label("done_time")).join(
    tables.history_done, tables.history_done.c.number == tables.history.c.number, isouter=True
)


def _feature(row: Any) -> Feature:
    try:
        return feature_from(parsed(row, tables.feature))
    except ValueError as error:
        values = row._mapping
        first = str(error).splitlines()[0]
        killed = values["state"] == FeatureState.KILLED.value
        state = FeatureState.KILLED if killed else FeatureState.ROLLED_BACK
        name = str(values["name"])
        return Feature(name, "", name, Overrides(), state, reason=f"its record cannot be read: {first}")


def feature_from(values: dict[str, Any]) -> Feature:
    """Read a feature from JSON or a row. Raises ValueError where it is none."""
    return FEATURE.validate_python(values)


def _run_row(run: Run) -> dict[str, Any]:
    values: dict[str, Any] = _RUN.dump_python(run, mode="json")
    del values["number"]
    return values
