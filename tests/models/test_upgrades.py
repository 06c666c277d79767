"""Schemas old and new on both databases: files of every earlier version, what is refused and how that is mended, and two versions at
work beside each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.script import ScriptDirectory

import models.database
from models.database import (
    SCHEMA,
    Database,
    check_schema,
    open_database,
    schema_floor,
    schema_version,
    upgrade,
)
from models.errors import SchemaError
from models.finalizing import reconcile
from models.states import BatchStatus
from models.store.endings import record
from models.tables import batches
from tests.making import NOW, announce, batch_status, claim, ending, finish, make_batch, make_worker
from tests.servers import wait_for

MIGRATIONS = Path(next(iter(models.__path__))) / "migrations"
EARLIER = ["0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009"]

OLD_ROWS = """
INSERT INTO batches (id, name, input_name, input_sha256, options_hash, status, total, created_at, started_at, finished_at) VALUES
  (1, 'done', 'a.jsonl', 'a', 'o', 'completed', 2, 1, 2, 9), (2, 'half', 'b.jsonl', 'b', 'o', 'running', 3, 1, 2, NULL),
  (3, 'stopped', 'c.jsonl', 'c', 'o', 'cancelled', 1, 1, NULL, 9);
INSERT INTO batch_counts (batch_id, shard, succeeded, failed, cancelled) VALUES (1, 4, 1, 1, 0), (2, 4, 1, 0, 0), (3, 4, 0, 0, 1);
INSERT INTO jobs (id, batch_id, position, custom_id, lane, model, provider, status, epoch, attempts, error_code, input_bytes, created_at, finished_at) VALUES
  (1, 1, 0, 'a', 'openai', 'm', 'openai', 'succeeded', 2, 1, NULL, 9, 1, 5), (2, 1, 1, 'b', 'openai', 'm', 'openai', 'failed', 4, 2, 'x', 9, 1, 5),
  (3, 2, 0, 'a', 'openai', 'm', 'openai', 'succeeded', 2, 1, NULL, 9, 1, 5), (4, 2, 1, 'b', 'openai', 'm', NULL, 'queued', 0, 0, NULL, 9, 1, NULL),
  (5, 2, 2, 'c', 'openai', 'm', 'openai', 'running', 1, 0, NULL, 9, 1, NULL), (6, 3, 0, 'a', 'openai', 'm', NULL, 'cancelled', 1, 0, NULL, 9, 1, NULL);
INSERT INTO job_inputs (job_id, body, dialect, operation)
  SELECT id, CAST('{"prompt": "x"}' AS BLOB), 'simple', 'chat' FROM jobs;
INSERT INTO attempts (id, job_id, batch_id, epoch, provider, key_id, requested_model, outcome, input_tokens, output_tokens, cost_nanos, currency, started_at, finished_at) VALUES
  (9000000011, 1, 1, 1, 'openai', 'k', 'm', 'succeeded', 5, 2, 100, 'USD', 2, 3), (9000000012, 2, 1, 1, 'openai', 'k', 'm', 'unknown', NULL, NULL, NULL, NULL, 2, NULL),
  (9000000013, 2, 1, 3, 'openai', 'k', 'm', 'rejected', NULL, NULL, NULL, NULL, 2, 3), (9000000014, 3, 2, 1, 'openai', 'k', 'm', 'succeeded', 5, 2, 100, 'USD', 2, 3);
INSERT INTO results (job_id, attempt_id, response, input_tokens, output_tokens, cost_nanos, currency) VALUES
  (1, 9000000011, X'28b52ffd20021100007b7d', 5, 2, 100, 'USD'), (3, 9000000014, X'28b52ffd20021100007b7d', 5, 2, 100, 'USD');
INSERT INTO batch_spend (batch_id, shard, provider, currency, succeeded, calls, input_tokens, output_tokens, cost_nanos) VALUES
  (1, 4, 'openai', 'USD', 1, 1, 5, 2, 100), (1, 4, 'openai', '', 0, 1, 0, 0, 0), (2, 4, 'openai', 'USD', 1, 1, 5, 2, 100)
"""
"""A batch that was completed, one half done with a job in the hands of a worker that is gone, one cancelled as old versions did it."""


@pytest.fixture
def empty(database_url: str) -> Iterator[Database]:
    """Both databases in turn, without any schema."""
    database = Database(database_url)
    yield database
    database.close()


def migrate(database: Database, revision: str) -> None:
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def execute(database: Database, script: str) -> None:
    with database.write() as connection:
        for statement in script.split(";\n"):
            if not database.sqlite:
                statement = statement.replace("AS BLOB", "AS BYTEA").replace(
                    "X'28b52ffd20021100007b7d'", r"'\x28b52ffd20021100007b7d'::bytea"
                )
            connection.exec_driver_sql(statement)


def adds_up(database: Database, batch: int) -> bool:
    books = reconcile(database, batch)
    assert books is not None
    assert books.sentence == ""
    return True


@pytest.mark.parametrize("revision", EARLIER)
def test_a_database_of_every_earlier_version_is_brought_up_to_date_and_its_batches_go_on(
    empty: Database, revision: str
) -> None:
    migrate(empty, revision)
    execute(empty, OLD_ROWS)
    if revision >= "0004":  # from then on cancelled jobs tell when
        execute(empty, "UPDATE jobs SET finished_at = 9 WHERE status = 'cancelled'")
    upgrade(empty)
    check_schema(empty)
    assert schema_version(empty) == SCHEMA
    assert all(adds_up(empty, batch) for batch in (1, 2, 3))
    if not empty.sqlite:  # ids that were written by hand are unknown to the sequences
        execute(
            empty,
            "SELECT setval(pg_get_serial_sequence('batches', 'id'), 9), setval(pg_get_serial_sequence('jobs', 'id'), 9)",
        )
    worker = make_worker(empty)
    (job,) = claim(empty, worker)
    (call,) = announce(empty, job)
    with empty.write() as connection:
        record(connection, [ending(call)], 4, NOW)
    assert adds_up(empty, 2)
    new = make_batch(empty, 1)
    calls = announce(empty, *claim(empty, worker))
    with empty.write() as connection:
        record(connection, [ending(one) for one in calls], worker, NOW)
    assert finish(empty, new)


def newer(database: Database, oldest: str) -> None:
    """What a later version's migration leaves behind: more columns and tables, and its word on who may use them."""
    upgrade(database)
    execute(
        database,
        "ALTER TABLE jobs ADD COLUMN later TEXT;\n"
        "ALTER TABLE batches ADD COLUMN later INTEGER NOT NULL DEFAULT 7;\n"
        "CREATE TABLE later (id INTEGER PRIMARY KEY);\n"
        "UPDATE alembic_version SET version_num = '9999';\n"
        f"UPDATE schema_floor SET oldest = '{oldest}'",
    )


def test_a_newer_schema_that_was_only_added_to_is_worked_with(empty: Database, database_url: str) -> None:
    newer(empty, SCHEMA)
    older = open_database(database_url)
    worker = make_worker(older)
    batch = make_batch(older, 2)
    calls = announce(older, *claim(older, worker))
    with older.write() as connection:
        record(connection, [ending(call) for call in calls], worker, NOW)
    assert finish(older, batch)
    assert batch_status(older, batch) == BatchStatus.COMPLETED
    older.close()


def test_a_newer_schema_that_this_version_cannot_work_with_is_refused(empty: Database, database_url: str) -> None:
    newer(empty, "9998")
    with pytest.raises(
        SchemaError, match=f"9999, newer than this version's {SCHEMA}, and needs code for 9998 at least: upgrade"
    ):
        open_database(database_url)
    with pytest.raises(SchemaError, match="only a newer version"):
        upgrade(empty)
    assert (schema_version(empty), schema_floor(empty)) == ("9999", "9998")


def test_a_newer_schema_that_says_nothing_of_it_is_refused(empty: Database, database_url: str) -> None:
    newer(empty, SCHEMA)
    execute(empty, "DROP TABLE schema_floor")
    with pytest.raises(SchemaError, match="upgrade TruckLLM"):
        open_database(database_url)


def test_an_older_schema_on_postgresql_is_refused_with_the_command_that_mends_it(postgres_url: str) -> None:
    database = Database(postgres_url)
    with pytest.raises(SchemaError, match="is empty: run `truckllm db upgrade`"):
        check_schema(database)
    migrate(database, "0003")
    with pytest.raises(SchemaError, match=f"schema 0003, this version needs {SCHEMA}: run `truckllm db upgrade`"):
        check_schema(database)
    upgrade(database)
    check_schema(database)
    assert schema_floor(database) == "0003"
    database.close()


def test_an_upgrade_that_waits_in_a_circle_with_a_worker_is_begun_again(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(postgres_url)
    migrate(database, "0004")
    refuse = models.database._refuse_to_outgrow

    def waits_for_workers() -> bool:
        with database.read() as looking:  # other databases of this server have tests of their own
            query = (
                "SELECT 1 FROM pg_locks JOIN pg_database ON pg_database.oid = database "
                "WHERE NOT granted AND relation = 'workers'::regclass AND datname = current_database()"
            )
            return looking.execute(sa.text(query)).first() is not None

    circles: list[Future[sa.CursorResult[Any]]] = []
    with database.engine.connect() as other, ThreadPoolExecutor(1) as pool:
        other.execute(sa.text("SET deadlock_timeout = '60s'"))  # so that it is the upgrade which is ended
        other.execute(sa.text("LOCK TABLE attempts IN ROW EXCLUSIVE MODE"))

        def then_wanted(database: Database, connection: sa.Connection, oldest: str) -> None:
            refuse(database, connection, oldest)
            if circles:
                return
            connection.execute(sa.text("SET LOCAL deadlock_timeout = '10ms'"))
            circles.append(pool.submit(other.execute, sa.text("LOCK TABLE workers IN ACCESS EXCLUSIVE MODE")))
            circles[0].add_done_callback(lambda _: other.rollback())
            wait_for(waits_for_workers, "the other to wait for us")

        monkeypatch.setattr(models.database, "_refuse_to_outgrow", then_wanted)
        upgrade(database)
        circles[0].result()
    assert schema_version(database) == SCHEMA
    database.close()


def test_an_upgrade_keeps_nobody_waiting_behind_one_who_reads_for_long(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(postgres_url)
    migrate(database, "0004")
    refuse = models.database._refuse_to_outgrow
    monkeypatch.setattr(models.database, "UPGRADE_LOCK_SECONDS", 0.05)
    monkeypatch.setattr(models.database, "UPGRADE_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(models.database, "UPGRADE_TRIES", 2)
    tries = 0
    with database.engine.connect() as reader:
        reader.execute(sa.text("SELECT count(*) FROM attempts"))
        with pytest.raises(SchemaError, match="reads or changes a table for long .* nothing was changed: wait"):
            upgrade(database)
        assert schema_version(database) == "0004"

        def at_the_second_try(database: Database, connection: sa.Connection, oldest: str) -> None:
            nonlocal tries
            tries += 1
            if tries == 2:
                with database.write() as worker:  # nothing is in its way between two tries
                    worker.execute(sa.text("LOCK TABLE attempts IN ROW EXCLUSIVE MODE NOWAIT"))
                reader.rollback()
            refuse(database, connection, oldest)

        monkeypatch.setattr(models.database, "_refuse_to_outgrow", at_the_second_try)
        upgrade(database)
    assert tries == 2
    assert schema_version(database) == SCHEMA
    database.close()


OLD_WORKER = (
    "INSERT INTO workers (host, boot_id, pid, pid_started, queues, config_hash, started_at, heartbeat_at) "
    "VALUES ('far', 'b', 1, 1, 'openai', '', 1, {beat})"
)
"""How a worker of an older version registers."""


def test_an_older_worker_goes_on_beside_newer_ones(empty: Database) -> None:
    migrate(empty, "0003")
    with empty.read() as connection:
        now = empty.now(connection)
    execute(empty, OLD_WORKER.format(beat=now))
    upgrade(empty)  # under a living worker: this migration only adds
    execute(empty, OLD_WORKER.format(beat=now))
    make_worker(empty)
    with empty.read() as connection:
        made_for = connection.execute(sa.text("SELECT schema FROM workers ORDER BY id")).scalars().all()
    assert made_for == ["0003", "0003", SCHEMA]
    batch = make_batch(empty, 1)
    calls = announce(empty, *claim(empty, 1))
    with empty.write() as connection:
        record(connection, [ending(call) for call in calls], 1, NOW)
        # an older worker knows nothing of finalizing
        connection.execute(batches.update().where(batches.c.id == batch).values(status="completed", finished_at=NOW))
    assert adds_up(empty, batch)


def test_a_step_that_living_workers_could_not_work_with_waits_for_their_end(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(empty)
    with empty.read() as connection:
        now = empty.now(connection)
    execute(empty, OLD_WORKER.format(beat=now))
    newest = ScriptDirectory(str(MIGRATIONS)).get_revision("head")
    assert newest is not None
    monkeypatch.setattr(ScriptDirectory, "get_revision", lambda *_: newest)
    monkeypatch.setattr(newest.module, "oldest", "0004")
    with pytest.raises(SchemaError, match=r"worker\(s\) 1 on far are of an older version.*workers drain"):
        upgrade(empty)
    execute(empty, f"UPDATE workers SET heartbeat_at = {now - 61}")
    upgrade(empty)
    assert schema_floor(empty) == "0004"


REMOVING = {"drop_table", "drop_column", "alter_column", "rename_table"}


def test_every_migration_says_who_may_use_its_schema_and_only_adds_to_what_others_use() -> None:
    scripts = [script for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions() if script.revision > "0003"]
    assert scripts
    for script in scripts:
        tree = ast.parse(Path(script.path).read_text())
        (body,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "upgrade"]
        used = {node.attr for node in ast.walk(body) if isinstance(node, ast.Attribute)}
        assert script.module.oldest <= script.revision
        assert script.module.oldest == script.revision or used.isdisjoint(REMOVING), script.path
