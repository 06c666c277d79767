"""Engine and transactions, for SQLite and PostgreSQL alike.

It knows nothing of batches or jobs; `models.store` does. On SQLite every write starts with BEGIN IMMEDIATE, so that it waits for
its turn instead of failing half way, and `synchronous=FULL` keeps what was committed through a power cut.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError

from models import permissions, processes
from models.errors import DatabaseFileLost, SchemaError, StorageError, UsageError

SCHEMA = "0010"
"""The migration that this code needs; a test holds it equal to the newest file in models/migrations/versions."""

POSTGRES_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""A server that is gone without a word is noticed within half a minute, not after the kernel's quarter of an hour."""

_HURRY = sa.text(
    "SELECT set_config('lock_timeout', '10s', true), set_config('idle_in_transaction_session_timeout', '15s', true)"
)

LIVING_SECONDS = 60.0
"""A worker that gave a sign of life so lately may be alive."""

_UNTOLD = "'0003'"
"""What workers were made for that don't say it."""

LOCK_WAIT_SECONDS = 30.0
"""How long a SQLite write waits for its turn."""

CIRCLE_TRIES = 5
"""So often a transaction is begun that PostgreSQL ends because it and another wait for each other."""

UPGRADE_LOCK_SECONDS = 5.0
"""How long a change of a table waits for those who read it: behind it all others wait who want to write there."""

UPGRADE_PAUSE_SECONDS = 1.0
"""How long it then lets the others go first."""

UPGRADE_TRIES = 12

T = TypeVar("T")


class Database:
    """One database. `read()` and `write()` give a connection in a transaction; the block's end commits, an error rolls back."""

    def __init__(self, url: str | sa.URL) -> None:
        self.url = make_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = _engine(self.url, self.sqlite)
        self._writer = self.engine.execution_options(truckllm_write=True)
        self._file = Path(self.url.database or "") if self.sqlite and _names_file(self.url) else None
        self._opened: tuple[int, int] | None = None

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return self.url.difference_update_query(("password", "sslpassword")).render_as_string(hide_password=True)

    def check_file(self) -> None:
        """Raises DatabaseFileLost where SQLite's file was deleted or replaced since this process opened it: SQLite itself would go on
        with the old one, and all that it stores there would be lost."""
        if self._file is None:
            return
        try:
            about = self._file.stat()
            found = (about.st_dev, about.st_ino)
        except FileNotFoundError:
            found = None
        except OSError:  # no word on what is there
            return
        if self._opened is None:
            self._opened = found
        elif found != self._opened:
            change = "deleted" if found is None else "replaced"
            raise DatabaseFileLost(
                f"the database {self._file} was {change} while in use, so no new call starts. Put the state folder back; "
                "or end this process and start again with what is there now"
            )

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            self.check_file()
            with connection.begin():
                yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Like `read`, and all its statements see the same moment."""
        level = {} if self.sqlite else {"isolation_level": "REPEATABLE READ"}
        with self.engine.connect().execution_options(**level) as connection:
            self.check_file()
            with connection.begin():
                yield connection

    @contextmanager
    def write(self, *, hurried: bool = False) -> Iterator[Connection]:
        """`hurried`: on PostgreSQL neither waits for others' locks for long, nor keeps others waiting when this very process is
        stopped half way: the server ends the transaction. On SQLite the one lock there is is waited for as ever."""
        with self._writer.connect() as connection:
            self.check_file()
            with connection.begin():
                if hurried and not self.sqlite:
                    connection.execute(_HURRY)
                yield connection

    def now(self, connection: Connection) -> float:
        """Unix seconds by the database's clock (SQLite runs on this machine's)."""
        if self.sqlite:
            return time.time()
        return float(connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())

    def forget(self) -> None:
        """Lets what was deleted leave SQLite's write-ahead log too, as far as no reader needs it. PostgreSQL sees to itself."""
        if self.sqlite:
            raw = self.engine.raw_connection()
            try:
                raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                raw.close()

    def close(self) -> None:
        self.engine.dispose()


def _names_file(url: sa.URL) -> bool:
    """Returns False for SQLite in memory and for SQLite's own URIs."""
    return bool(url.database) and url.database != ":memory:" and not str(url.database).startswith("file:")


def _engine(url: sa.URL, sqlite: bool) -> Engine:
    if not sqlite:
        if url.get_backend_name() != "postgresql":
            raise UsageError(
                f"database_url: {url.get_backend_name()} is not supported; use sqlite:///… or postgresql://…"
            )
        # psycopg 3 is what we depend on, whatever short form people write
        return sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            connect_args=POSTGRES_PATIENCE,
            pool_size=5,
            max_overflow=10,
        )
    engine = sa.create_engine(url, connect_args={"timeout": LOCK_WAIT_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver must not start transactions of its own
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA cache_size=-32000")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("truckllm_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def home_path() -> Path:
    """Where state lives: $TRUCKLLM_HOME, else ./.truckllm; it may not be there yet."""
    return Path(os.environ.get("TRUCKLLM_HOME") or ".truckllm").expanduser().absolute()


def home() -> Path:
    """`home_path`, made private on first use. Raises StorageError when that can't be a folder of ours, or is another user's."""
    path = home_path()
    try:
        if not path.is_dir():
            for missing in [one for one in reversed(path.parents) if not one.exists()]:
                missing.mkdir(mode=0o700, exist_ok=True)  # `parents=True` would leave their mode to the umask
            path.mkdir(mode=0o700, exist_ok=True)  # two may start at once
        about = path.stat()
        if os.getuid() and permissions.stranger(about):
            raise StorageError(f"the state folder {path} belongs to another user ({about.st_uid}): {_WAY_OUT}")
    except FileExistsError:
        raise StorageError(f"the state folder {path} is a file: {_WAY_OUT}") from None
    except OSError as error:
        raise StorageError(f"the state folder {path} can't be made ({error.strerror or error}): {_WAY_OUT}") from None
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise StorageError(f"the state folder {path} can't be written by you: {_WAY_OUT}")
    return path


_WAY_OUT = "set TRUCKLLM_HOME to a folder of yours"


def stored_file() -> Path:
    """The SQLite file in the state folder; it may not be there yet."""
    return home_path() / "truckllm.db"


def open_database(url: str | None = None, *, check: bool = True) -> Database:
    """The database at `url`, or SQLite in the state folder, made and brought up to date when it is new.

    Raises SchemaError when its schema isn't this code's, StorageError when it can't be reached.
    """
    file = None
    if url is None:
        home()
        file = stored_file()
        try:
            if not file.exists():
                os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise StorageError(f"{file}: {error.strerror or error}; {_WAY_OUT}") from None
    try:
        # built, not formatted: a path may hold ? and %, which mean something in a URL
        database = Database(sa.URL.create("sqlite", database=str(file)) if file else url or "")
    except ValueError:  # what isn't a number may be a part of a password
        raise UsageError("database_url: its port is no number; write it like postgresql://host:5432/name") from None
    except sa.exc.ArgumentError as error:
        raise UsageError(f"database_url: not a database URL ({error}); use sqlite:///… or postgresql://…") from None
    if (
        not database.sqlite and "@" in f"{database.url.host}{database.url.database}"
    ):  # the end of a password that was cut
        raise UsageError(
            "database_url: holds an @ that ends no user or password; write that of a password as %40, and / as %2F"
        )
    named = database.url.database if database.sqlite and _names_file(database.url) else None
    if named:
        with contextlib.suppress(OSError):  # whatever the umask; if it can't be made, SQLite says why
            os.close(os.open(named, os.O_CREAT | os.O_RDWR, 0o600))
    if check:
        check_schema(database)
    return database


def nothing_stored() -> Database:
    """An empty database in memory, for looking where there is none: made from the tables, which takes a third of the time that all
    migrations take."""
    from models.tables import metadata

    database = Database("sqlite://")
    metadata.create_all(database.engine)
    return database


def check_schema(database: Database) -> None:
    """Refuses a schema that this code can't work with; a SQLite file that is new or older is brought up to date on the spot.

    A newer schema that was only added to is fine: that is how old workers go on while new ones start. Not under a worker that lives, which would be one of an older version. A PostgreSQL database is only changed by
    `truckllm db upgrade`, because other machines use it too. Raises SchemaError, StorageError.
    """
    with storage_errors(database):
        found = schema_version(database)
        if database.sqlite and (found is None or found < SCHEMA):
            pid = _living_worker(database) if found is not None else None
            if pid is None:
                upgrade(database)
                return
            found = schema_version(database)  # a worker of this version may have been quicker
            if found is not None and found < SCHEMA:
                raise SchemaError(
                    f"{database.shown} has schema {found} and is used by a worker of an older version (process {pid}): end "
                    "that, then run this again"
                )
    if found is None:
        raise SchemaError(f"{database.shown} is empty: run `truckllm db upgrade` once")
    if found < SCHEMA:
        raise SchemaError(
            f"{database.shown} has schema {found}, this version needs {SCHEMA}: run `truckllm db upgrade`"
        )
    if found > SCHEMA:
        with storage_errors(database):
            oldest = schema_floor(database)
        if oldest is None or oldest > SCHEMA:
            raise SchemaError(
                f"{database.shown} has schema {found}, newer than this version's {SCHEMA}"
                + (f", and needs code for {oldest} at least" if oldest else "")
                + ": upgrade TruckLLM"
            )


def _living_worker(database: Database) -> int | None:
    """The process id of a registered worker that lives on this machine. By plain SQL, because the schema may be any."""
    with database.read() as connection:
        rows = connection.execute(sa.text("SELECT host, boot_id, pid, pid_started FROM workers")).all()
    for host, boot_id, pid, pid_started in rows:
        if host == processes.host() and processes.alive(pid, pid_started, boot_id):
            return int(pid)
    return None


def schema_version(database: Database) -> str | None:
    """The migration that the database stands at, None when it is empty."""
    with database.read() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def schema_floor(database: Database) -> str | None:
    """The oldest schema whose code may use the database, as its newest migration has said; None: nobody has."""
    with database.read() as connection:
        if not sa.inspect(connection).has_table("schema_floor"):
            return None
        return connection.execute(sa.text("SELECT max(oldest) FROM schema_floor")).scalar_one_or_none()


def upgrade(database: Database) -> None:
    """Brings the schema up to date. Safe to call from several processes at once, and under workers at work.

    A step that code of living workers couldn't work with is refused while they live. Raises SchemaError; also when others use a table
    for so long that it can't be changed within about a minute.
    """
    for left in reversed(range(UPGRADE_TRIES)):
        try:
            out_of_circles(lambda: _upgrade(database))
            return
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != "55P03":  # lock_not_available
                raise
            if not left:
                raise SchemaError(
                    f"{database.shown}: something reads or changes a table for long (a dump, `truckllm verify`, a transaction "
                    "left open), and nothing was changed: wait for its end, then run this again"
                ) from error
        time.sleep(UPGRADE_PAUSE_SECONDS)


def _upgrade(database: Database) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with database.write() as connection:
        if not database.sqlite:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(7471001)"))
            hurry = {"most": f"{UPGRADE_LOCK_SECONDS * 1000:.0f}ms"}
            connection.execute(sa.text("SELECT set_config('lock_timeout', :most, true)"), hurry)
        config.attributes["connection"] = connection
        found = MigrationContext.configure(connection).get_current_revision()
        if found is not None and found > SCHEMA:
            raise SchemaError(
                f"{database.shown} has schema {found}, which is newer than this version's {SCHEMA}: only a newer version can "
                "bring it up to date"
            )
        scripts = ScriptDirectory.from_config(config)
        newest = scripts.get_revision("head")
        oldest = str(newest.module.oldest)
        _refuse_to_outgrow(database, connection, oldest)
        command.upgrade(config, "head")
        connection.execute(sa.text("DELETE FROM schema_floor"))
        connection.execute(sa.text("INSERT INTO schema_floor (oldest) VALUES (:oldest)"), {"oldest": oldest})


def _refuse_to_outgrow(database: Database, connection: Connection, oldest: str) -> None:
    """By plain SQL, because the schema may be any."""
    inspector = sa.inspect(connection)
    if not inspector.has_table("workers"):
        return
    told = any(column["name"] == "schema" for column in inspector.get_columns("workers"))
    rows = connection.execute(
        sa.text(
            f"SELECT id, host, {'schema' if told else _UNTOLD} AS made_for FROM workers WHERE heartbeat_at > :since"
        ),
        {"since": database.now(connection) - LIVING_SECONDS},
    )
    behind = [f"{row.id} on {row.host}" for row in rows if row.made_for < oldest]
    if behind:
        raise SchemaError(
            f"worker(s) {', '.join(behind)} are of an older version that can't work with the new schema: end them "
            f"(`truckllm workers drain`), then run this again"
        )


def met_in_a_circle(error: Exception) -> bool:
    """Whether PostgreSQL ended a transaction because it and another waited for each other. Nothing of it was done: it can be repeated
    at once."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == "40P01"


def out_of_circles(work: Callable[[], T]) -> T:
    """What `work` returns, which is one transaction: begun again up to CIRCLE_TRIES times when it `met_in_a_circle`."""
    for _ in range(CIRCLE_TRIES - 1):
        try:
            return work()
        except DBAPIError as error:
            if not met_in_a_circle(error):
                raise
    return work()


@contextmanager
def storage_errors(database: Database) -> Iterator[None]:
    """Turns the driver's errors into a StorageError that says which database and what to look at; into a UsageError where it is
    about a value that no database takes."""
    try:
        yield
    except (DataError, OverflowError, UnicodeEncodeError) as error:  # too long, too large, a NUL, half a character
        why = str(error.orig).strip().splitlines()[0] if isinstance(error, DataError) else str(error)
        raise UsageError(f"a value that was given can't be stored: {why}") from error
    except DBAPIError as error:
        raise StorageError(f"{database.shown}: {str(error.orig).strip()}") from error
    except SQLAlchemyError as error:
        raise StorageError(f"{database.shown}: {error}") from error
