"""submit_batch: all or nothing, found again, resumed after a crash, never paid twice by accident."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import submit.loading
from models.config import Config
from models.config_file import load_config_text
from models.database import Database, open_database
from models.errors import ConflictError, InputError, StorageError, UsageError
from models.states import BatchStatus
from models.store import batches, budgets
from models.store import jobs as job_store
from models.tables import batches as batch_table
from models.tables import job_inputs, jobs
from submit.producer import Submitted, submit_batch
from tests.conftest import wait_for
from tests.worker_by_hand import WorkerByHand

CONFIG = """
providers:
  - {id: openai, keys: [{id: oa-1, secret: "${NOT_SET_ANYWHERE}", limit_req_per_min: 1, limit_tokens_per_min: 1, pricing: &free {input_token_cost: 0, output_token_cost: 0}}]}
  - {id: claude, keys: [{id: cl-1, secret: s-2, limit_req_per_min: 1, limit_tokens_per_min: 1, pricing: *free}]}
"""


@pytest.fixture
def config() -> Config:
    return load_config_text(CONFIG, secrets=False)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    monkeypatch.setenv("TRUCKLLM_HOME", str(path))
    return path


@pytest.fixture
def put(config: Config, database: Database) -> Callable[..., Submitted]:
    def put(source: Any, **options: Any) -> Submitted:
        return submit_batch(source, config=config, database=database, **options)

    return put


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/only.db")
    yield database
    database.close()


def prompts(number: int, model: str = "gpt-4o") -> list[dict[str, Any]]:
    return [{"prompt": f"say {n}", "model": model} for n in range(number)]


def cap(database: Database, batch_id: int) -> int | None:
    with database.read() as connection:
        found = budgets.get(connection, batch_id)
    return None if found is None else int(found["most_nanos"])


def status(database: Database, batch_id: int) -> str:
    with database.read() as connection:
        return str(batches.get(connection, batch_id)["status"])


def stored(database: Database) -> list[tuple[int, str, str, str, str]]:
    query = sa.select(jobs.c.position, jobs.c.custom_id, jobs.c.lane, jobs.c.model, job_inputs.c.body).join(job_inputs)
    with database.read() as connection:
        return [(*row[:4], bytes(row[4]).decode()) for row in connection.execute(query.order_by(jobs.c.id))]


def number_of_batches(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(batch_table)).scalar_one())


def test_a_file_becomes_a_queued_batch_of_its_lines_in_order(
    put: Callable[..., Submitted], database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "a", "prompt": "1", "model": "gpt-4o"}\n\n{"prompt": "2", "model": "claude/claude-x"}\n')
    done = put(path)
    assert (done.total, done.found, done.warnings) == (2, "new", ())
    assert stored(database) == [
        (0, "a", "openai", "gpt-4o", '{"id": "a", "prompt": "1", "model": "gpt-4o"}'),
        (1, "line-3", "claude", "claude-x", '{"prompt": "2", "model": "claude/claude-x"}'),
    ]
    with database.read() as connection:
        row = batches.get(connection, done.batch_id)
    assert (row["status"], row["name"], row["input_name"], row["total"]) == ("queued", "prompts.jsonl", str(path), 2)


def test_dicts_streams_and_stdin_are_inputs_like_files(
    put: Callable[..., Submitted], database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in prompts(3))
    path = tmp_path / "p.jsonl"
    path.write_bytes(lines)
    first = put(path)
    assert put(prompts(3)).batch_id == first.batch_id
    assert put(io.BytesIO(lines)).batch_id == first.batch_id
    with path.open("rb") as stdin:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stdin))
        assert put("-").batch_id == first.batch_id
    read_end, write_end = os.pipe()
    os.write(write_end, lines)
    os.close(write_end)
    assert put(f"/dev/fd/{read_end}").batch_id == first.batch_id
    os.close(read_end)
    assert number_of_batches(database) == 1


def test_a_copied_input_leaves_nothing_behind(put: Callable[..., Submitted], home: Path) -> None:
    put(prompts(3))
    assert list(home.iterdir()) == []


def test_bad_lines_are_counted_and_nothing_is_enqueued(put: Callable[..., Submitted], database: Database) -> None:
    lines = b'{"prompt": "fine", "model": "gpt-4o"}\n' + b"nonsense\n" * 30
    with pytest.raises(InputError) as raised:
        put(io.BytesIO(lines))
    assert raised.value.exit_code == 2
    assert raised.value.count == 30
    assert [line.number for line in raised.value.lines] == list(range(2, 22))
    assert "30 of 31 lines" in str(raised.value)
    assert number_of_batches(database) == 0


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"\xef\xbb\xbf\r\n"])
def test_an_empty_input_is_an_error(put: Callable[..., Submitted], content: bytes) -> None:
    with pytest.raises(InputError, match="is empty"):
        put(io.BytesIO(content))


def test_checking_needs_no_server(config: Config) -> None:
    with pytest.raises(InputError):
        submit_batch(io.BytesIO(b"nonsense"), config=config, database="postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(StorageError):
        submit_batch(prompts(1), config=config, database="postgresql://nobody@127.0.0.1:1/none")


def test_what_is_no_input_is_refused(put: Callable[..., Submitted], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        put(tmp_path / "nothing.jsonl")
    with pytest.raises(InputError):
        put(tmp_path)
    with pytest.raises(UsageError, match="binary"):
        put(io.StringIO("{}"))
    with pytest.raises(UsageError, match="line 1 is of type str"):
        put(["{}"])
    with pytest.raises(UsageError, match="single dict"):
        put({"prompt": "x"})
    with pytest.raises(InputError) as raised:
        put([{"prompt": "x", "model": "gpt-4o", "temperature": float("nan")}])
    assert raised.value.lines[0].number == 1
    with pytest.raises(UsageError, match="limit"):
        put(prompts(1), limit=0)


def test_the_same_input_finds_its_unfinished_batch(put: Callable[..., Submitted], database: Database) -> None:
    first = put(prompts(3))
    again = put(prompts(3), name="another name", priority=5, max_cost="2")
    assert (again.batch_id, again.found, again.total) == (first.batch_id, "resumed", 3)
    assert cap(database, first.batch_id) == 2 * 10**9
    assert number_of_batches(database) == 1


@pytest.mark.parametrize("options", [{"model": "gpt-4o-mini"}, {"limit": 2}])
def test_other_options_conflict_while_the_batch_is_unfinished(
    put: Callable[..., Submitted], options: dict[str, Any]
) -> None:
    first = put(prompts(3))
    with pytest.raises(ConflictError) as raised:
        put(prompts(3), **options)
    message = str(raised.value)
    assert raised.value.exit_code == 2
    assert f"batch {first.batch_id} (queued)" in message
    assert f"truckllm cancel {first.batch_id}" in message
    assert "--new" in message
    assert next(iter(options)) in message


def test_new_makes_another_batch_each_time_and_the_latest_is_found(
    put: Callable[..., Submitted], database: Database
) -> None:
    ids = [put(prompts(3)).batch_id, put(prompts(3), new=True).batch_id, put(prompts(3), new=True).batch_id]
    assert len(set(ids)) == 3
    assert put(prompts(3)).batch_id == ids[-1]
    assert put(prompts(3), model="gpt-4o-mini", new=True).batch_id not in ids


def test_a_completed_batch_is_found_and_paid_again_only_on_demand_with_a_warning_that_names_it(
    put: Callable[..., Submitted], database: Database
) -> None:
    first = put(prompts(2))
    worker = WorkerByHand(database)
    one, two = worker.claim(2)
    worker.succeed(one, cost_nanos=1_500_000)
    worker.fail(two)
    assert status(database, first.batch_id) == BatchStatus.COMPLETED
    assert put(prompts(2), priority=3, max_cost="2") == Submitted(first.batch_id, 2, "completed", ())
    assert (cap(database, first.batch_id), number_of_batches(database)) == (None, 1)
    second = put(prompts(2), new=True)
    assert second.batch_id != first.batch_id
    assert second.found == "new"
    (warning,) = second.warnings
    for part in (
        f"batch {first.batch_id} ",
        "1 succeeded, 1 failed, 0.0015 USD",
        "pays",
        f"truckllm rerun {first.batch_id}",
    ):
        assert part in warning
    assert put(prompts(2)).batch_id == second.batch_id


def test_what_is_completed_is_found_beside_an_unfinished_batch_of_other_options_and_a_cancelled_one(
    put: Callable[..., Submitted], database: Database
) -> None:
    first = put(prompts(2))
    worker = WorkerByHand(database)
    for job in worker.claim(2):
        worker.succeed(job)
    second = put(prompts(2), new=True)
    with database.write() as connection:
        batches.cancel(connection, second.batch_id)
        job_store.cancel_queued(connection, second.batch_id, 1.0)
    other = put(prompts(2), limit=1)
    assert other.batch_id not in (first.batch_id, second.batch_id)
    assert put(prompts(2)) == Submitted(first.batch_id, 2, "completed", ())


def test_a_batch_that_was_cancelled_before_any_call_is_no_reason_to_warn(
    put: Callable[..., Submitted], database: Database
) -> None:
    first = put(prompts(2))
    with database.write() as connection:
        batches.cancel(connection, first.batch_id)
        job_store.cancel_queued(connection, first.batch_id, 1.0)
    second = put(prompts(2))
    assert (second.found, second.warnings) == ("new", ())


def test_limit_takes_the_first_lines_and_model_replaces_theirs(
    put: Callable[..., Submitted], database: Database
) -> None:
    assert put(prompts(5), limit=2, model="claude-x").total == 2
    assert [row[1:4] for row in stored(database)] == [
        ("line-1", "claude", "claude-x"),
        ("line-2", "claude", "claude-x"),
    ]


def test_a_load_that_was_interrupted_is_invisible_and_goes_on_where_it_stopped(
    put: Callable[..., Submitted], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit.loading, "CHUNK_ROWS", 2)

    def interrupt(stage: str, number: int) -> None:
        if stage == "loading" and number == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        put(prompts(7), progress=interrupt)
    with database.read() as connection:
        assert batches.runnable(connection) == []
    done = put(prompts(7), max_cost="2")
    assert (done.found, done.total) == ("resumed", 7)
    assert cap(database, done.batch_id) == 2 * 10**9
    assert status(database, done.batch_id) == BatchStatus.QUEUED
    assert [row[:2] for row in stored(database)] == [(n, f"line-{n + 1}") for n in range(7)]
    assert number_of_batches(database) == 1


def test_an_interrupted_load_is_not_continued_with_what_another_configuration_made_of_it(
    put: Callable[..., Submitted], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit.loading, "CHUNK_ROWS", 2)

    def interrupt(stage: str, number: int) -> None:
        if stage == "loading" and number == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        put(prompts(7), progress=interrupt)
    other = load_config_text(CONFIG.replace("id: claude,", "id: claude, models: [gpt-4o],"), secrets=False)
    done = submit_batch(prompts(7), config=other, database=database)
    assert done.found == "new"
    assert [row[2] for row in stored(database)] == ["claude"] * 7
    assert number_of_batches(database) == 1


KILLED = """
import os, signal, sys
import submit.loading
from submit.producer import submit_batch
submit.loading.CHUNK_ROWS = 10
def kill(stage, number):
    if stage == "loading" and number >= 50:
        os.kill(os.getpid(), signal.SIGKILL)
submit_batch(sys.argv[1], config=sys.argv[2], database=sys.argv[3], progress=kill)
"""


def test_after_kill_9_in_the_middle_nothing_is_visible_and_the_next_submission_goes_on_at_once(
    config: Config, sqlite: Database, tmp_path: Path
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in prompts(120)))
    (tmp_path / "c.yaml").write_text(CONFIG)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, path, tmp_path / "c.yaml", str(sqlite.url)], timeout=60, check=False
    )
    assert killed.returncode == -9
    with sqlite.read() as connection:
        assert batches.runnable(connection) == []
        assert batches.get(connection, 1)["total"] == 50
    began = time.monotonic()
    done = submit_batch(path, config=config, database=sqlite)
    assert time.monotonic() - began < 20
    assert (done.batch_id, done.found, done.total) == (1, "resumed", 120)
    assert [row[0] for row in stored(sqlite)] == list(range(120))


def test_the_load_of_another_machine_is_taken_over_only_after_it_has_been_silent(
    put: Callable[..., Submitted], database: Database
) -> None:
    first = put(prompts(3))
    with database.write() as connection:
        connection.execute(
            batch_table.update().values(
                status="loading", loader="elsewhere 1 2.0 x", loaded_at=database.now(connection)
            )
        )
    done: list[Submitted] = []
    waiting = threading.Thread(target=lambda: done.append(put(prompts(3))))
    waiting.start()
    waiting.join(1.0)
    assert waiting.is_alive()
    with database.write() as connection:
        connection.execute(batch_table.update().values(loaded_at=batch_table.c.loaded_at - 61))
    waiting.join(30)
    assert done == [Submitted(first.batch_id, 3, "resumed", ())]


def test_two_submissions_at_once_make_one_batch(config: Config, database_url: str, database: Database) -> None:
    done: list[Submitted] = []
    together = threading.Barrier(4)

    def put_it() -> None:
        own = open_database(database_url)
        together.wait()
        done.append(submit_batch(prompts(3000), config=config, database=own))
        own.close()

    threads = [threading.Thread(target=put_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({one.batch_id for one in done}) == 1
    assert [one.found for one in done].count("new") == 1
    assert len(done) == 4
    assert [row[0] for row in stored(database)] == list(range(3000))


def test_an_input_that_changes_between_the_readings_leaves_nothing(
    put: Callable[..., Submitted], database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit.loading, "CHUNK_ROWS", 2)
    path = tmp_path / "p.jsonl"
    text = "".join(json.dumps(line) + "\n" for line in prompts(5))
    path.write_text(text)

    def change(stage: str, number: int) -> None:
        if number == 2:
            with path.open("a") as file:
                file.write(json.dumps({"prompt": "one more", "model": "gpt-4o"}) + "\n")

    with pytest.raises(InputError, match="changed while it was being read"):
        put(path, progress=change)
    assert number_of_batches(database) == 0
    assert stored(database) == []
    path.write_text(text)
    assert put(path).found == "new"


def test_a_load_that_is_cancelled_says_so(
    put: Callable[..., Submitted], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit.loading, "CHUNK_ROWS", 2)

    def cancel(stage: str, number: int) -> None:
        with database.write() as connection:
            batches.cancel(connection, 1)

    with pytest.raises(ConflictError, match="was cancelled while"):
        put(prompts(5), progress=cancel)


def test_chunks_are_bounded_in_bytes_too(
    put: Callable[..., Submitted], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit.loading, "CHUNK_BYTES", 1000)
    loaded: list[int] = []
    lines = [{"prompt": "x" * 400, "model": "gpt-4o", "id": n} for n in range(4)]
    lines.insert(2, {"prompt": "y" * 5000, "model": "gpt-4o", "id": "big"})
    put(lines, progress=lambda stage, number: loaded.append(number))
    assert loaded == [2, 3, 5]
    assert len(stored(database)) == 5


def test_long_names_are_cut_and_not_refused(put: Callable[..., Submitted], database: Database) -> None:
    done = put(prompts(1), name="n" * 1000)
    with database.read() as connection:
        assert batches.get(connection, done.batch_id)["name"] == "n" * 200


def test_from_python_it_comes_by_the_public_name() -> None:
    import truckllm

    assert truckllm.submit_batch is submit_batch


def test_an_unset_secret_does_not_stop_a_submission(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "truckllm.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    done = submit_batch(prompts(1), database=str(sqlite.url))
    wait_for(lambda: status(sqlite, done.batch_id) == "queued", "the batch to be queued", 1)
