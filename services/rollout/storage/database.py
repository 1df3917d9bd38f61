"""Databases for the records: a SQLite file, or PostgreSQL for several replicas. One replica leads; it alone writes.

What says who leads is what a write needs: on PostgreSQL the connection that holds the advisory lock is the only one
that writes, so a leader that lost its session, and with it the lock, cannot write what its successor does not know of.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from alembic import command as alembic
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from services.chassis.errors import InvalidArgument, StartupError, Unavailable
from services.rollout.feedback.storage import FeedbackRecords, stage_tables
from services.rollout.storage.records import Records
from services.rollout.storage.turns import Turns

_MIGRATIONS = Path(__file__).with_name("migrations")
_LOCK_KEY = 0x51_1C_E0_07  # any number, as long as nothing else in the database takes it
_CONNECT_SECONDS = 5
_RETRY_SECONDS = 1.0


class Database(Protocol):
    """A database that holds the records."""

    def lead(self) -> bool:
        """Try once to become the leader, and bring the tables up to date.

        Raises Unavailable where the database cannot be reached, StartupError where a newer release has been at it.
        """

    def writing(self) -> Any:
        """A context with `Records` in a transaction that is durable when it ends. Only for the leader.

        Raises Unavailable where the database went away, or this process leads no more.
        """

    def reading(self) -> Any:
        """A context with `Records` to read. Raises Unavailable where the database cannot be reached."""

    def storing_feedback(self) -> Any:
        """A context with `FeedbackRecords` in a transaction that is durable when it ends, for one thread at a time.

        It has a connection of its own, so that no decision waits for feedback. Raises Unavailable.
        """

    def reading_feedback(self) -> Any:
        """A context with `FeedbackRecords` to read, each statement for itself. Raises Unavailable."""

    def close(self) -> None:
        """Close all connections and give up the lead."""


def open_database(url: str, authority: Path | None = None) -> Database:
    """Open the database that a URL names; with an authority's certificates, PostgreSQL by TLS alone.

    Raises StartupError with a remedy.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise StartupError(
            "ROLLOUT_DATABASE_URL: is no database URL",
            remedy="Use sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/DATABASE.",
        ) from None
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return SqliteDatabase(Path(parsed.database))
    if parsed.get_backend_name() == "postgresql":
        return PostgresDatabase(parsed if authority is None else _secured(parsed, authority))
    raise StartupError(
        f"ROLLOUT_DATABASE_URL: {parsed.get_backend_name()} without a file or not known",
        remedy="Use sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/DATABASE.",
    )


def _secured(url: sa.URL, authority: Path) -> sa.URL:
    """Return the URL by which the server has to show a certificate of that authority, for its host name."""
    try:
        authority.read_bytes()
    except OSError as error:
        raise StartupError(
            f"ROLLOUT_DATABASE_CA_FILE: {authority} cannot be read: {error.strerror}",
            remedy="Name a file with certificates in PEM, or unset ROLLOUT_DATABASE_CA_FILE.",
        ) from error
    return url.update_query_dict({"sslmode": "verify-full", "sslrootcert": str(authority)})


class SqliteDatabase:
    """A file on this machine. The lead is a lock on a second file, which the kernel releases when a process dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None
        self._turns = Turns()
        self._feeding: sa.Connection | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StartupError(
                f"ROLLOUT_DATABASE_URL: the folder of {path} cannot be made: {error.strerror}",
                remedy="Name a file in a folder that this process may write to.",
            ) from error
        self._engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(path)), connect_args={"check_same_thread": False, "timeout": 10}
        )
        sa.event.listen(self._engine, "connect", _prepare_sqlite)
        sa.event.listen(self._engine, "begin", _begin_sqlite)

    def lead(self) -> bool:
        """See Database."""
        if self._lock is None:
            try:
                lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise StartupError(
                    f"ROLLOUT_DATABASE_URL: {self._path} cannot be written: {error.strerror}",
                    remedy="Name a file in a folder that this process may write to.",
                ) from error
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            self._lock = lock
        try:
            with self._engine.connect() as connection:
                _migrate(connection)
        except sa.exc.DBAPIError as error:
            raise StartupError(
                f"ROLLOUT_DATABASE_URL: {self._path} cannot be opened: {error.orig}",
                remedy="Restore the file from a backup, or move it away to begin with an empty one.",
            ) from error
        return True

    @contextmanager
    def writing(self) -> Iterator[Records]:
        """See Database."""
        with (
            _explained(),
            self._turns.first(),
            self._engine.connect().execution_options(writes=True) as connection,
            connection.begin(),
        ):
            yield Records(connection)

    @contextmanager
    def reading(self) -> Iterator[Records]:
        """See Database."""
        with _explained(), self._engine.connect() as connection:
            yield Records(connection)

    @contextmanager
    def storing_feedback(self) -> Iterator[FeedbackRecords]:
        """See Database."""
        with self._turns.last(), _explained():
            if self._feeding is None:
                self._feeding = self._engine.connect().execution_options(writes=True)
            with self._feeding.begin():
                stage_tables(self._feeding)
                yield FeedbackRecords(self._feeding)

    @contextmanager
    def reading_feedback(self) -> Iterator[FeedbackRecords]:
        """See Database."""
        with _explained(), self._engine.connect().execution_options(apart=True) as connection:
            yield FeedbackRecords(connection)

    def close(self) -> None:
        """See Database."""
        if self._feeding is not None:
            self._feeding.close()
            self._feeding = None
        self._engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class PostgresDatabase:
    """A PostgreSQL database. The lead is an advisory lock of the session that writes.

    A pooler between, if there is one, has to keep sessions (not transactions) together.
    """

    def __init__(self, url: sa.URL) -> None:
        # A leader whose machine is cut off must not hold the lock for the hours that TCP takes to notice.
        watchful = "-c tcp_keepalives_idle=3 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3"
        self._engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={"connect_timeout": _CONNECT_SECONDS, "options": watchful},
            pool_pre_ping=True,
            hide_parameters=True,
        )
        self._leading: sa.Connection | None = None
        self._feeding: sa.Connection | None = None

    def lead(self) -> bool:
        """See Database."""
        if self._leading is not None:
            return True
        with _explained():
            connection = self._engine.connect()
            try:
                mine = connection.execute(sa.select(sa.func.pg_try_advisory_lock(_LOCK_KEY))).scalar_one()
                connection.commit()
                if mine:
                    _migrate(connection)
                    self._leading = connection
            finally:
                if self._leading is not connection:
                    # A session that goes back to the pool would keep the lock.
                    connection.invalidate()
                    connection.close()
        return bool(mine)

    @contextmanager
    def writing(self) -> Iterator[Records]:
        """See Database."""
        if self._leading is None:
            raise Unavailable("this replica lost its session with the database", reason="DATABASE_DOWN")
        try:
            with _explained(), self._leading.begin():
                yield Records(self._leading)
        finally:
            if self._leading.invalidated or self._leading.closed:
                self._leading.close()
                self._leading = None

    @contextmanager
    def reading(self) -> Iterator[Records]:
        """See Database."""
        with _explained(), self._engine.connect() as connection:
            yield Records(connection)

    @contextmanager
    def storing_feedback(self) -> Iterator[FeedbackRecords]:
        """See Database."""
        try:
            with _explained():
                if self._feeding is None:
                    self._feeding = self._engine.connect()
                    with self._feeding.begin():
                        stage_tables(self._feeding)
                with self._feeding.begin():
                    yield FeedbackRecords(self._feeding)
        except BaseException:
            self._end_feeding()
            raise

    @contextmanager
    def reading_feedback(self) -> Iterator[FeedbackRecords]:
        """See Database."""
        with _explained(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield FeedbackRecords(connection)

    def _end_feeding(self) -> None:
        if self._feeding is not None:
            self._feeding.invalidate()
            self._feeding.close()
            self._feeding = None

    def close(self) -> None:
        """See Database."""
        self._end_feeding()
        if self._leading is not None:
            self._leading.invalidate()
            self._leading.close()
            self._leading = None
        self._engine.dispose()


@contextmanager
def _explained() -> Iterator[None]:
    """Turn a driver's error for a database that is away, or not yet made, into Unavailable.

    A text with a null, which PostgreSQL takes nowhere, not even to look for it, is a mistake of the caller.
    """
    try:
        yield
    except sa.exc.DataError as error:
        if "NUL" not in str(error.orig):
            raise
        raise InvalidArgument("request", "holds a text with a null (U+0000); leave it out") from error
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.ProgrammingError) as error:
        lost = isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated
        if isinstance(error, sa.exc.ProgrammingError) and not lost and "does not exist" not in str(error.orig):
            raise
        raise Unavailable(
            "the database of the rollout service does not answer as it must",
            reason="DATABASE_DOWN",
            retry_after=_RETRY_SECONDS,
        ) from error


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # We begin transactions: the driver would begin them late, and let two of them collide.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if not options.get("apart", False):
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes", False) else "BEGIN")


def _migrate(connection: sa.Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        alembic.upgrade(config, "head")
        connection.commit()
    except CommandError as error:
        newest = ScriptDirectory.from_config(config).get_current_head()
        raise StartupError(
            f"the tables of the rollout service are of a newer release than this one (which knows {newest}): {error}",
            remedy="Start the newer release, or restore the backup from before it.",
        ) from error
