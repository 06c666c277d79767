"""Results: one line a job in input order, whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.config_file import load_config_text
from models.database import Database, open_database
from models.errors import NotFoundError, StorageError, UsageError
from models.store import batches, outcomes
from models.store import jobs as job_store
from submit import exports
from submit.exports import export, stream
from submit.producer import submit_batch
from submit.removal import remove
from tests.worker_by_hand import WorkerByHand

CONFIG = """
providers:
  - {id: openai, keys: [{id: oa-1, secret: s-1, limit_req_per_min: 1, limit_tokens_per_min: 1}]}
"""


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / "home"))
    database = open_database(f"sqlite:///{tmp_path}/only.db")
    yield database
    database.close()


def submitted(database: Database, source: Any, **options: Any) -> int:
    return submit_batch(source, config=load_config_text(CONFIG), database=database, **options).batch_id


def prompts(number: int) -> list[dict[str, Any]]:
    return [{"id": f"id {n}", "prompt": f"say {n}", "model": "gpt-4o", "metadata": {"n": n}} for n in range(number)]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_come_in_input_order_whatever_the_order_of_the_answers(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes.page, "__kwdefaults__", {"most": 3, "most_bytes": 1 << 20})
    batch = submitted(database, prompts(8))
    worker = WorkerByHand(database)
    for job in reversed(worker.claim(8)):
        if job.body.find(b"say 5") > 0:
            worker.fail(job, "bad_request", "it can't")
        else:
            worker.succeed(job, text=f"answer to {json.loads(job.body)['prompt']}", cost_nanos=1_500_000)
    done = export(database, batch, tmp_path / "out.jsonl")
    assert (done.path, done.lines, done.succeeded, done.failed) == (tmp_path / "out.jsonl", 8, 7, 1)
    lines = read(tmp_path / "out.jsonl")
    assert [line["id"] for line in lines] == [f"id {n}" for n in range(8)]
    assert lines[2] == {
        "id": "id 2",
        "status": "succeeded",
        "text": "answer to say 2",
        "error": None,
        "provider": "openai",
        "key_id": "oa-1",
        "requested_model": "gpt-4o",
        "served_model": "gpt-4o-0806",
        "finish_reason": "stop",
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_tokens": 4,
        "cost": 0.0015,
        "currency": "USD",
        "latency_ms": 12,
        "attempts": 1,
        "metadata": {"n": 2},
    }
    assert (lines[5]["status"], lines[5]["error"]) == ("failed", {"code": "bad_request", "message": "it can't"})
    assert (lines[5]["provider"], lines[5]["key_id"], lines[5]["metadata"]) == ("openai", "oa-1", {"n": 5})


def test_an_openai_line_comes_back_in_its_own_dialect(sqlite: Database, tmp_path: Path) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
    batch = submitted(sqlite, [{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}])
    worker = WorkerByHand(sqlite)
    call = worker.succeed(worker.claim()[0], response=b'{"id": "chatcmpl-1",\n "n": 1.10}')
    export(sqlite, batch, tmp_path / "out.jsonl")
    text = (tmp_path / "out.jsonl").read_text()
    assert json.loads(text) == {
        "id": f"batch_req_{call}",
        "custom_id": "a",
        "response": {"status_code": 200, "request_id": "req-1", "body": {"id": "chatcmpl-1", "n": 1.1}},
        "error": None,
    }
    assert "1.10" in text


def test_an_unfinished_batch_is_exported_only_so_far(sqlite: Database, tmp_path: Path) -> None:
    batch = submitted(sqlite, prompts(3))
    worker = WorkerByHand(sqlite)
    worker.succeed(worker.claim()[0])
    worker.claim()
    with pytest.raises(UsageError, match="aren't final"):
        export(sqlite, batch, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    done = export(sqlite, batch, tmp_path / "out.jsonl", partial=True)
    assert (done.succeeded, done.unfinished) == (1, 2)
    assert [line["status"] for line in read(tmp_path / "out.jsonl")] == ["succeeded", "running", "queued"]


def test_cancelled_lines_are_in_the_final_results(sqlite: Database, tmp_path: Path) -> None:
    batch = submitted(sqlite, prompts(2))
    worker = WorkerByHand(sqlite)
    worker.succeed(worker.claim()[0])
    with sqlite.write() as connection:
        batches.cancel(connection, batch)
        job_store.cancel_queued(connection, batch, 1.0)
    with sqlite.write() as connection:
        batches.finish_if_done(connection, batch, 1.0)
    done = export(sqlite, batch, tmp_path / "out.jsonl")
    assert (done.succeeded, done.cancelled, done.unfinished) == (1, 1, 0)


def finished(database: Database, source: Any, **options: Any) -> int:
    batch = submitted(database, source, **options)
    worker = WorkerByHand(database)
    for job in worker.claim(1000):
        worker.succeed(job)
    return batch


def test_by_default_results_lie_beside_the_input(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    Path("in/prompts.jsonl").write_text(json.dumps(prompts(1)[0]))
    batch = finished(sqlite, "in/prompts.jsonl")
    assert export(sqlite, batch).path == Path("in/prompts.results.jsonl")
    assert len(read(tmp_path / "in/prompts.results.jsonl")) == 1


def test_the_old_file_is_replaced_and_a_link_stays_a_link(sqlite: Database, tmp_path: Path) -> None:
    batch = finished(sqlite, prompts(2))
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    real.write_text("old")
    link.symlink_to(real)
    export(sqlite, batch, link)
    assert link.is_symlink()
    assert len(read(real)) == 2
    assert sorted(p.name for p in tmp_path.glob("*.part")) == []


def test_the_file_has_the_usual_permissions(sqlite: Database, tmp_path: Path) -> None:
    batch = finished(sqlite, prompts(1))
    before = os.umask(0o027)
    try:
        export(sqlite, batch, tmp_path / "out.jsonl")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.jsonl").stat().st_mode) == 0o640


def test_the_input_is_never_overwritten(sqlite: Database, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(prompts(1)[0]))
    batch = finished(sqlite, path)
    with pytest.raises(UsageError, match="is the batch's input"):
        export(sqlite, batch, path)
    assert json.loads(path.read_text())["prompt"] == "say 0"


def test_neither_the_input_named_from_elsewhere_nor_the_database_is_overwritten(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "x", "model": "gpt-4o"}\n')
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    batch = finished(sqlite, Path("p.jsonl"))
    monkeypatch.chdir("sub")
    with pytest.raises(UsageError, match="is the batch's input"):
        export(sqlite, batch, "../p.jsonl")
    for beside in ("", "-wal"):
        with pytest.raises(UsageError, match="is the database itself"):
            export(sqlite, batch, f"{sqlite.url.database}{beside}")
    assert export(sqlite, batch, "out.jsonl").succeeded == 1


def test_results_may_be_called_like_the_database_of_a_server(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    batch = finished(database, [{"prompt": "x", "model": "gpt-4o"}])
    name = f"{Path(str(database.url.database)).name}.results.jsonl"
    assert export(database, batch, name).succeeded == 1


def test_a_folder_and_a_batch_that_does_not_exist_are_bad_usage(sqlite: Database, tmp_path: Path) -> None:
    batch = finished(sqlite, prompts(1))
    with pytest.raises(UsageError, match="is a folder"):
        export(sqlite, batch, tmp_path)
    with pytest.raises(NotFoundError, match="no batch 99"):
        export(sqlite, 99, tmp_path / "out.jsonl")


FULL = """
import resource, sys
from models.database import open_database
from submit.exports import export
from models.errors import StorageError
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    export(open_database(sys.argv[1]), 1, sys.argv[2])
except StorageError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_full_disk_loses_nothing_and_leaves_no_half_file(sqlite: Database, tmp_path: Path) -> None:
    batch = finished(sqlite, prompts(600))
    assert batch == 1
    out = tmp_path / "out.jsonl"
    out.write_text("what was there")
    full = subprocess.run(
        [sys.executable, "-c", FULL, str(sqlite.url), str(out)], capture_output=True, text=True, timeout=60, check=False
    )
    assert full.returncode == 4, full.stderr
    assert "Nothing is lost: `truckllm results 1 -o FILE`" in full.stdout
    assert out.read_text() == "what was there"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("out")) == ["out.jsonl"]
    export(sqlite, batch, out)
    assert len(read(out)) == 600


def test_a_folder_that_is_not_there_is_a_storage_error(sqlite: Database, tmp_path: Path) -> None:
    batch = finished(sqlite, prompts(1))
    with pytest.raises(StorageError, match="No such file"):
        export(sqlite, batch, tmp_path / "nowhere" / "out.jsonl")


def test_results_go_to_pipes_and_stdout_too(
    sqlite: Database, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    batch = finished(sqlite, prompts(2))
    assert export(sqlite, batch, "/dev/stdout").lines == 2
    assert len(capfdbinary.readouterr().out.splitlines()) == 2


MEMORY = """
import resource, sys
from models.database import open_database
from submit.exports import export
database = open_database(sys.argv[1])
export(database, 1, "/dev/null")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
export(database, 2, "/dev/null")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) // (1024 if sys.platform == "linux" else 1024 * 1024))
"""


def test_memory_does_not_grow_with_the_batch(sqlite: Database) -> None:
    finished(sqlite, prompts(20))
    batch = submitted(sqlite, [{"prompt": "x" * 20_000, "model": "gpt-4o", "metadata": n} for n in range(3000)])
    assert batch == 2
    worker = WorkerByHand(sqlite)
    for job in worker.claim(50):
        worker.succeed(job, text="y" * 1_000_000)
    with sqlite.write() as connection:
        batches.cancel(connection, batch)
        while job_store.cancel_queued(connection, batch, 1.0):
            pass
        batches.finish_if_done(connection, batch, 1.0)
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(sqlite.url)], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(run.stdout) < 60


def test_a_batch_that_is_deleted_meanwhile_isnt_taken_for_whole(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "_SENT", 1)
    batch = finished(sqlite, prompts(3))
    pieces = stream(sqlite, batch)
    assert next(pieces)
    assert remove(sqlite, batch) == 3
    with pytest.raises(NotFoundError):
        list(pieces)


def test_what_killed_exports_left_is_removed_but_not_what_is_being_written(sqlite: Database, tmp_path: Path) -> None:
    batch = finished(sqlite, prompts(1))
    old, locked, fresh, other = (
        tmp_path / name
        for name in (
            "out.jsonl.00000001.part",
            "out.jsonl.00000002.part",
            "out.jsonl.00000003.part",
            "more.jsonl.00000004.part",
        )
    )
    for path in (old, locked, fresh, other):
        path.write_text("half")
    for path in (old, locked, other):
        os.utime(path, (1, 1))
    with locked.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        export(sqlite, batch, tmp_path / "out.jsonl")
    assert sorted(path.name for path in tmp_path.glob("*.part")) == sorted(p.name for p in (locked, fresh, other))
