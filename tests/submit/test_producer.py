"""submit_batch: all or nothing, resumed after a crash."""

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

import pytest
import sqlalchemy as sa

import submit.loading
from models.config import Config
from models.config_file import load_config_text
from models.database import Database, open_database
from models.errors import ConflictError, InputError, StorageError, UsageError
from models.states import BatchStatus
from models.store import batches
from models.tables import batches as batch_table
from models.tables import job_inputs, jobs
from submit.producer import Submitted, submit_batch
from tests.submit.conftest import CONFIG, cap, prompts, status

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/only.db")
    yield database
    database.close()


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


def test_a_name_does_nothing_to_a_terminal(put: Callable[..., Submitted], database: Database) -> None:
    number = put(prompts(1), name="a\x1b[2Jb\nc").batch_id
    with database.read() as connection:
        assert batches.get(connection, number)["name"] == "a\ufffd[2Jb\ufffdc"


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
    assert status(sqlite, done.batch_id) == "queued"
