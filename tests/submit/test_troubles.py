"""What people are told while a provider fails, while nobody serves a batch, and while its keys are out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from models import processes
from models.config import Config
from models.config_file import load_config_text
from models.database import Database, open_database
from models.states import JobStatus, Outcome
from models.store import keys as key_store
from models.store import workers as worker_store
from models.tables import attempts as attempts_table
from submit.bell import live_workers
from submit.lines import line
from submit.obstacles import lost_lanes
from submit.producer import submit_batch
from submit.progress import Pace, Snapshot, snapshot
from submit.troubles import clock, troubles
from tests.worker_by_hand import WorkerByHand

CONFIG = """
providers:
  - {id: openai, base_url: "http://127.0.0.1:9/v1", keys: [{id: oa-1, secret: s-1}]}
  - {id: claude, keys: [{id: cl-1, secret: s-2}]}
worker: {retry_for: 900}
"""


@pytest.fixture
def config() -> Config:
    return load_config_text(CONFIG)


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / "home"))
    database = open_database(f"sqlite:///{tmp_path}/only.db")
    yield database
    database.close()


def submitted(database: Database, config: Config, number: int = 20, model: str = "gpt-4o") -> int:
    lines = [{"prompt": f"say {n}", "model": model} for n in range(number)]
    return submit_batch(lines, config=config, database=database).batch_id


def seen(database: Database, batch: int, config: Config | None) -> Snapshot:
    with database.read() as connection:
        return snapshot(connection, batch, config, database.now(connection))


def fail(worker: WorkerByHand, times: int, code: str, **how: Any) -> None:
    for job in worker.claim(times):
        worker.fail(job, code, **{"outcome": Outcome.FAILED, "http_status": None, "status": JobStatus.QUEUED, **how})


def test_a_provider_that_is_not_reached_is_named_with_its_address_and_how_long_it_is_tried(
    database: Database, config: Config
) -> None:
    batch = submitted(database, config)
    began = time.time()
    fail(WorkerByHand(database), 7, "connect_error")
    [sentence] = [trouble.sentence for trouble in seen(database, batch, config).troubles]
    until = clock(began + 900, began)
    assert sentence.startswith(
        "openai: no connection to 127.0.0.1:9 (7 failures in the last minute; tried again until "
    )
    assert abs(_minutes(sentence[-6:-1]) - _minutes(until)) <= 1
    assert sentence in line(seen(database, batch, config))
    assert "no connection to it" in seen(database, batch, None).troubles[0].sentence


def _minutes(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


@pytest.mark.parametrize(
    ("code", "how", "told"),
    [
        ("http_503", {"http_status": 503}, "it answers HTTP 503"),
        ("overloaded_error", {"http_status": 529}, "it answers HTTP 529, overloaded_error"),
        ("timeout", {"outcome": Outcome.UNKNOWN}, "calls end without a whole answer (timeout)"),
        ("rate_limit", {"outcome": Outcome.RATE_LIMITED, "http_status": 429}, "limits are exceeded (HTTP 429"),
        ("invalid_api_key", {"outcome": Outcome.REJECTED, "http_status": 401}, "it refuses the key (HTTP 401"),
    ],
)
def test_storms_of_any_kind_are_told(
    sqlite: Database, config: Config, code: str, how: dict[str, Any], told: str
) -> None:
    batch = submitted(sqlite, config)
    fail(WorkerByHand(sqlite), 3, code, **how)
    [trouble] = seen(sqlite, batch, config).troubles
    assert trouble.provider == "openai"
    assert told in trouble.sentence


def test_few_failures_or_few_among_many_are_no_trouble(sqlite: Database, config: Config) -> None:
    batch = submitted(sqlite, config)
    worker = WorkerByHand(sqlite)
    fail(worker, 2, "http_503", http_status=503)
    assert seen(sqlite, batch, config).troubles == ()
    for job in worker.claim(4):
        worker.succeed(job)
    fail(worker, 1, "http_503", http_status=503)
    assert seen(sqlite, batch, config).troubles == ()
    fail(worker, 1, "http_503", http_status=503)
    assert len(seen(sqlite, batch, config).troubles) == 1


def test_refused_requests_and_calls_under_way_are_no_trouble_of_the_provider(sqlite: Database, config: Config) -> None:
    batch = submitted(sqlite, config)
    worker = WorkerByHand(sqlite)
    fail(worker, 5, "bad_request", outcome=Outcome.REJECTED, http_status=400, status=JobStatus.FAILED)
    for job in worker.claim(5):
        worker.announce(job)
    assert seen(sqlite, batch, config).troubles == ()


def test_a_provider_that_is_asked_seldom_is_judged_by_ten_minutes_and_one_that_recovered_by_the_last(
    sqlite: Database, config: Config
) -> None:
    batch = submitted(sqlite, config)
    worker = WorkerByHand(sqlite)
    fail(worker, 3, "http_500", http_status=500, started_at=time.time() - 200)
    assert "3 failures in the last 10 minutes" in seen(sqlite, batch, config).troubles[0].sentence
    for job in worker.claim(3):
        worker.succeed(job)
    assert seen(sqlite, batch, config).troubles == ()


def test_a_minute_of_answers_hides_no_outage_and_a_minute_of_failures_no_return(
    database: Database, config: Config
) -> None:
    batch = submitted(database, config, 40)
    worker = WorkerByHand(database)
    for job in worker.claim(10):
        worker.succeed(job)
    pass_time(database, 30)
    fail(worker, 2, "connect_error")
    pass_time(database, 1)
    assert seen(database, batch, config).troubles == ()
    fail(worker, 1, "connect_error")
    pass_time(database, 1)
    assert "3 failures in the last minute" in seen(database, batch, config).troubles[0].sentence
    fail(worker, 9, "connect_error")
    pass_time(database, 20)
    for job in worker.claim(3):
        worker.succeed(job)
    pass_time(database, 1)
    assert seen(database, batch, config).troubles == ()


def pass_time(database: Database, seconds: float) -> None:
    """All calls so far began and ended so long ago."""
    calls = attempts_table.c
    with database.write() as connection:
        connection.execute(
            sa.update(attempts_table).values(
                started_at=calls.started_at - seconds,
                finished_at=sa.case((calls.finished_at == 1.0, calls.started_at), else_=calls.finished_at) - seconds,
            )
        )


def test_another_batch_is_not_bothered_with_a_provider_it_does_not_use(sqlite: Database, config: Config) -> None:
    submitted(sqlite, config)
    other = submitted(sqlite, config, 1, "claude-x")
    fail(WorkerByHand(sqlite), 5, "connect_error")
    assert seen(sqlite, other, config).troubles == ()


def test_looking_for_troubles_takes_no_longer_with_a_big_ledger(sqlite: Database, config: Config) -> None:
    batch = submitted(sqlite, config, 5000)
    worker = WorkerByHand(sqlite)
    jobs = worker.claim(5000)
    with sqlite.write() as connection:
        from models.store import attempts
        from models.store.attempts import Announcement

        calls = [Announcement(n, job.id, batch, job.epoch, "openai", "oa-1", "m", 1) for n, job in enumerate(jobs, 1)]
        attempts.announce(connection, calls, time.time())
    with sqlite.read() as connection:
        began = time.thread_time()  # what others do to the machine meanwhile doesn't count
        assert troubles(connection, batch, config, time.time()) == ()
        assert time.thread_time() - began < 0.05


def test_without_a_live_worker_it_says_so_and_gives_no_eta(database: Database, config: Config) -> None:
    batch = submitted(database, config, 3)
    now = seen(database, batch, config)
    assert now.unserved == "no live worker serves openai: start `truckllm worker` or `run`"
    assert now.rate == 0.0 or now.rate is None
    worker = WorkerByHand(database)
    for job in worker.claim(2):
        worker.succeed(job)
    assert seen(database, batch, config).unserved is None
    assert seen(database, batch, config).eta_seconds is not None
    with database.write() as connection:
        worker_store.remove(connection, [worker.id])
    left = seen(database, batch, config)
    assert (left.rate, left.eta_seconds) == (0.0, None)
    assert Pace().of(left, 1.0).eta_seconds is None
    assert "no live worker serves openai" in line(left)
    assert seen(database, batch, None).unserved is None, "without a configuration nobody knows who should serve"


def test_a_worker_of_this_machine_whose_process_is_gone_is_not_live(sqlite: Database) -> None:
    here = {"host": processes.host(), "boot_id": processes.boot_id(), "config_hash": "0"}
    with sqlite.write() as connection:
        now = sqlite.now(connection)
        worker_store.register(connection, **here, pid=1, pid_started=-1.0, queues=["openai"], now=now)
        assert live_workers(connection, now) == {}
        mine = processes.started(1)
        assert mine is not None
        worker_store.register(connection, **here, pid=1, pid_started=mine, queues=["openai"], now=now)
        assert live_workers(connection, now) == {"openai": 1}


ENABLE = "`truckllm keys enable openai/oa-1`"


@pytest.mark.parametrize(
    ("reason", "helps"), [("refused: bad", "replace the secret"), ("quota: no money", f"{ENABLE} once it is paid for")]
)
def test_a_blocked_batch_says_when_its_key_is_tried_again_and_what_else_helps(
    sqlite: Database, config: Config, reason: str, helps: str
) -> None:
    batch = submitted(sqlite, config)
    now = time.time()
    with sqlite.write() as connection:
        key_store.quarantine(
            connection,
            provider="openai",
            key_id="oa-1",
            mark=key_store.fingerprint("s-1"),
            pool="oa-1",
            reason=reason,
            now=now,
            until=now + 300,
        )
    told = seen(sqlite, batch, config).blocked
    assert told is not None
    assert told.endswith(f"{reason} (tried again at {clock(now + 300, now)}, or {helps})")
    with sqlite.write() as connection:
        key_store.disable(connection, "openai", "oa-1", "oa-1", "disabled by hand", now)
    told = seen(sqlite, batch, config).blocked
    assert told is not None
    assert told.endswith(f"disabled by hand ({ENABLE} puts it back)")


def test_lanes_that_left_the_configuration_are_found(sqlite: Database, config: Config) -> None:
    lines = [{"prompt": "1", "model": "gpt-4o"}, {"prompt": "2", "model": "claude-x"}]
    batch = submit_batch(lines, config=config, database=sqlite).batch_id
    smaller = load_config_text("providers: [{id: openai, keys: [{id: oa-1, secret: s-1}]}]")
    with sqlite.read() as connection:
        assert lost_lanes(connection, batch, config) == ([], False)
        assert lost_lanes(connection, batch, smaller) == (["claude"], False)
