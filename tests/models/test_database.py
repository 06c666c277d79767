"""Where state lives, and how an older SQLite file is brought up to date."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig

import models
from models import processes
from models.database import SCHEMA, Database, check_schema, home, open_database, schema_version
from models.errors import SchemaError, StorageError, UsageError


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Database]:
    """A database of the first schema."""
    database = Database(f"sqlite:///{tmp_path}/old.db")
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(next(iter(models.__path__))) / "migrations"))
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    yield database
    database.close()


def register(database: Database, pid: int, started: float) -> None:
    with database.write() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO workers (host, boot_id, pid, pid_started, queues, config_hash, started_at, heartbeat_at) "
                "VALUES (:host, :boot, :pid, :started, 'openai', '', 0, 0)"
            ),
            {"host": processes.host(), "boot": processes.boot_id(), "pid": pid, "started": started},
        )


def test_an_older_sqlite_file_is_brought_up_to_date(old: Database) -> None:
    register(old, os.getpid(), -1.0)  # the number of a process that is gone
    check_schema(old)
    assert schema_version(old) == SCHEMA


def test_an_older_sqlite_file_is_left_alone_while_a_worker_uses_it(old: Database) -> None:
    started = processes.started(os.getpid())
    assert started is not None
    register(old, os.getpid(), started)
    with pytest.raises(SchemaError, match=f"process {os.getpid()}.*end that"):
        check_schema(old)
    assert schema_version(old) == "0001"


def test_a_newer_sqlite_file_is_refused(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/new.db")
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(sa.text("UPDATE schema_floor SET oldest = '9999'"))
    with pytest.raises(SchemaError, match="upgrade TruckLLM"):
        check_schema(database)
    database.close()


def test_a_state_folder_that_is_none_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for odd in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        monkeypatch.setenv("TRUCKLLM_HOME", str(odd))
        with pytest.raises(StorageError, match="set TRUCKLLM_HOME to a folder of yours"):
            open_database()


def test_a_tilde_in_the_state_folders_name_is_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TRUCKLLM_HOME", "~/state")
    assert home() == tmp_path / "state"
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


def test_a_password_is_not_shown_wherever_it_stands_in_the_url() -> None:
    for url in (
        "postgresql://me:canary-1@db.example/jobs",
        "postgresql://me@db.example/jobs?password=canary-1&sslpassword=canary-1",
    ):
        database = Database(url)
        assert "canary" not in database.shown
        assert "db.example/jobs" in database.shown
        database.close()


def test_a_url_whose_password_is_cut_by_an_at_sign_is_refused_without_showing_its_end() -> None:
    for url in ("postgresql://me:my@canary@db.example/jobs", "postgresql://me:my@ca/nary@db.example/jobs"):
        with pytest.raises(UsageError, match="%40") as caught:
            open_database(url)
        assert "nary" not in str(caught.value)
    with pytest.raises(UsageError, match="port is no number"):
        open_database("postgresql://me:canary@db.example:port/jobs")
