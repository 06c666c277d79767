"""Snapshots and watching: counts, cost by provider, pace, and when a batch is blocked."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from models.config import Config
from models.config_file import load_config_text
from models.database import Database, open_database
from models.errors import NotFoundError
from models.store import batches
from models.store import jobs as job_store
from models.store import keys as key_store
from models.wording import duration
from submit.lines import line
from submit.live import LiveView
from submit.producer import submit_batch
from submit.progress import Pace, Part, Snapshot, snapshot, watch
from tests.worker_by_hand import USAGE, WorkerByHand

CONFIG = """
providers:
  - {id: openai, keys: [{id: oa-1, secret: s-1}, {id: oa-2, secret: "${NOT_SET_ANYWHERE}"}]}
  - {id: claude, keys: [{id: cl-1, secret: s-2}]}
routes:
  both: {candidates: [openai/gpt-4o, claude/claude-x]}
"""


@pytest.fixture
def config() -> Config:
    return load_config_text(CONFIG, secrets=False)


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / "home"))
    database = open_database(f"sqlite:///{tmp_path}/only.db")
    yield database
    database.close()


def submitted(database: Database, config: Config, number: int = 1, **more: Any) -> int:
    lines = [{"prompt": f"say {n}", "model": "gpt-4o", **more} for n in range(number)]
    return submit_batch(lines, config=config, database=database, name="mine").batch_id


def seen(database: Database, batch: int, config: Config | None = None) -> Snapshot:
    with database.read() as connection:
        return snapshot(connection, batch, config, database.now(connection))


def quarantine(database: Database, provider: str, key_id: str, secret: str) -> None:
    with database.write() as connection:
        key_store.quarantine(
            connection,
            provider=provider,
            key_id=key_id,
            mark=key_store.fingerprint(secret),
            pool=key_id,
            reason="refused: invalid_api_key",
            now=database.now(connection),
            until=None,
        )


def test_a_snapshot_counts_jobs_and_money_by_provider(database: Database, config: Config) -> None:
    batch = submitted(database, config, 5)
    other = submit_batch(
        [{"prompt": "x", "model": "claude-x"}], config=config, database=database, name="other"
    ).batch_id
    worker = WorkerByHand(database)
    first, second, third, fourth = worker.claim(4)
    worker.succeed(first, cost_nanos=10)
    worker.succeed(second, cost_nanos=None, currency=None)
    worker.fail(third)
    under_way = worker.announce(fourth)
    now = seen(database, batch)
    assert (now.name, now.status, now.total, now.succeeded, now.failed, now.running, now.queued) == (
        "mine",
        "running",
        5,
        2,
        1,
        1,
        1,
    )
    assert now.providers == (
        Part(
            provider="openai",
            succeeded=2,
            failed=1,
            calls=3,
            input_tokens=2 * USAGE.input_tokens,
            output_tokens=2 * USAGE.output_tokens,
            costs=(("USD", 10),),
            unpriced_tokens=USAGE.total_tokens,
        ),
    )
    assert (now.costs, now.unpriced_tokens, now.finished) == ((("USD", 10),), USAGE.total_tokens, False)
    assert now.rate is not None
    assert now.rate > 0
    assert seen(database, other).providers == ()
    worker.succeed(fourth, announced=under_way)
    worker.succeed(worker.claim()[0])
    end = seen(database, batch)
    assert (end.status, end.finished, end.exit_code, end.running) == ("completed", True, 1, 0)


def test_exit_codes_follow_the_end(sqlite: Database, config: Config) -> None:
    batch = submitted(sqlite, config)
    assert seen(sqlite, batch).exit_code == 1
    worker = WorkerByHand(sqlite)
    worker.succeed(worker.claim()[0])
    assert seen(sqlite, batch).exit_code == 0


def test_a_batch_without_a_usable_key_is_blocked_with_the_reason(database: Database, config: Config) -> None:
    batch = submitted(database, config)
    quarantine(database, "openai", "oa-1", "s-1")
    assert seen(database, batch, config).status == "queued"
    quarantine(database, "openai", "oa-2", "whatever it is elsewhere")
    now = seen(database, batch, config)
    assert (now.status, now.exit_code) == ("blocked", 3)
    assert now.blocked is not None
    assert "openai/oa-1: refused: invalid_api_key" in now.blocked
    assert seen(database, batch, None).status == "queued"


def test_another_secret_under_the_same_id_is_another_key(sqlite: Database, config: Config) -> None:
    batch = submitted(sqlite, config, 1, provider="claude")
    quarantine(sqlite, "claude", "cl-1", "the old secret")
    assert seen(sqlite, batch, config).blocked is None
    quarantine(sqlite, "claude", "cl-1", "s-2")
    assert seen(sqlite, batch, config).blocked is not None


def test_a_batch_with_a_call_under_way_is_not_blocked(sqlite: Database, config: Config) -> None:
    batch = submitted(sqlite, config, 2, provider="claude")
    worker = WorkerByHand(sqlite, "claude")
    job = worker.claim()[0]
    call = worker.announce(job)
    quarantine(sqlite, "claude", "cl-1", "s-2")
    assert seen(sqlite, batch, config).blocked is None
    worker.succeed(job, announced=call)
    assert seen(sqlite, batch, config).blocked is not None


def test_a_snoozed_job_of_a_usable_key_keeps_a_batch_from_being_blocked(sqlite: Database, config: Config) -> None:
    lines = [{"prompt": "1", "model": "gpt-4o"}, {"prompt": "2", "model": "claude-x"}]
    batch = submit_batch(lines, config=config, database=sqlite).batch_id
    worker = WorkerByHand(sqlite)
    job = worker.claim()[0]
    with sqlite.write() as connection:
        job_store.give_back(connection, {job.id: job.epoch}, not_before=4e9)
    quarantine(sqlite, "claude", "cl-1", "s-2")
    assert seen(sqlite, batch, config).blocked is None


def test_a_route_is_blocked_when_its_jobs_have_nowhere_left_to_go(sqlite: Database, config: Config) -> None:
    batch = submitted(sqlite, config, 1, route="both")
    quarantine(sqlite, "claude", "cl-1", "s-2")
    assert seen(sqlite, batch, config).blocked is None
    with sqlite.write() as connection:
        from models.tables import jobs

        connection.execute(jobs.update().values(excluded=",openai,"))
    assert seen(sqlite, batch, config).blocked is not None


def test_a_lane_that_left_the_configuration_blocks(sqlite: Database, config: Config) -> None:
    batch = submitted(sqlite, config, 1, provider="claude")
    smaller = load_config_text("providers: [{id: openai, keys: [{id: oa-1, secret: s-1}]}]")
    now = seen(sqlite, batch, smaller)
    assert now.blocked is not None
    assert "lane claude is not in the configuration" in now.blocked


def test_a_cancelled_batch_is_not_blocked(sqlite: Database, config: Config) -> None:
    batch = submitted(sqlite, config, 1, provider="claude")
    quarantine(sqlite, "claude", "cl-1", "s-2")
    with sqlite.write() as connection:
        batches.cancel(connection, batch)
    assert seen(sqlite, batch, config).status == "cancelled"


def test_watching_ends_with_the_last_job(sqlite: Database, config: Config) -> None:
    batch = submitted(sqlite, config, 3)
    worker = WorkerByHand(sqlite)
    ticks: list[int] = []

    def work(now: Snapshot) -> None:
        ticks.append(now.ended)
        for job in worker.claim():
            worker.succeed(job)

    end = watch(sqlite, batch, config=config, on_tick=work, interval=0.01)
    assert (end.status, end.succeeded) == ("completed", 3)
    assert ticks == [0, 1, 2, 3]


def test_watching_can_end_when_the_caller_likes(sqlite: Database, config: Config) -> None:
    batch = submitted(sqlite, config)
    assert watch(sqlite, batch, until_done=lambda now: now.total == 1).status == "queued"
    with pytest.raises(NotFoundError):
        watch(sqlite, 99)


def a_snapshot(**changes: Any) -> Snapshot:
    return replace(
        Snapshot(
            batch_id=3,
            name="mine",
            input_name="mine.jsonl",
            status="running",
            total=1000,
            succeeded=0,
            failed=0,
            cancelled=0,
            running=10,
            providers=(),
            created_at=0.0,
            started_at=0.0,
            finished_at=None,
            now=1.0,
        ),
        **changes,
    )


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    pace = Pace()
    for second in range(30):  # 10 jobs a second for 10 s, then 4
        ended = 10 * min(second, 10) + 4 * max(0, second - 10)
        last = pace.of(a_snapshot(succeeded=ended), 100.0 + second)
    assert last.rate == pytest.approx(4.0)
    assert last.eta_seconds == pytest.approx((1000 - 176) / 4.0)


def test_a_slow_batch_is_measured_over_a_minute() -> None:
    pace = Pace()
    for second in range(121):  # one job in 20 s
        last = pace.of(a_snapshot(succeeded=second // 20), 100.0 + second)
    assert last.rate == pytest.approx(3 / 60)


def test_before_a_second_has_passed_the_rate_is_what_the_database_tells() -> None:
    assert Pace().of(a_snapshot(rate=7.0), 1.0).rate == 7.0
    assert Pace().of(a_snapshot(), 1.0).eta_seconds is None


def test_a_rerun_does_not_make_the_rate_negative() -> None:
    pace = Pace()
    pace.of(a_snapshot(succeeded=500, failed=500), 1.0)
    for second in range(2, 8):
        last = pace.of(a_snapshot(succeeded=500), float(second))
    assert last.rate == 0.0
    assert last.eta_seconds is None


def test_being_blocked_is_counted_in_seconds_and_from_anew_after_a_break() -> None:
    pace = Pace()
    assert pace.of(a_snapshot(status="blocked", blocked="no key"), 1.0).blocked_seconds == 0.0
    assert pace.of(a_snapshot(status="blocked", blocked="no key"), 5.0).blocked_seconds == 4.0
    assert pace.of(a_snapshot(), 6.0).blocked_seconds == 0.0
    assert pace.of(a_snapshot(status="blocked", blocked="no key"), 7.0).blocked_seconds == 0.0


def test_a_line_tells_what_matters_and_never_adds_currencies_up() -> None:
    parts = (
        Part("openai", 5, 1, 7, 10, 20, (("USD", 1_500_000_000),), 0),
        Part("claude", 2, 0, 2, 10, 20, (("EUR", 250_000_000), ("USD", 500_000_000)), 40),
    )
    text = line(a_snapshot(succeeded=7, failed=1, providers=parts, rate=12.3, eta_seconds=80.4))
    assert text == (
        "batch 3 running: 8/1,000 done, 1 failed, 10 in flight, 12/s, ETA 1 min 20 s, "
        "0.25 EUR + 2.00 USD + 40 tokens UNPRICED"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "?"), (0.4, "0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (7300, "2 h 1 min")]
)
def test_durations_are_said_as_people_do(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_without_a_terminal_the_view_writes_a_line_now_and_then() -> None:
    file = io.StringIO()
    with LiveView(Console(file=file), line_seconds=3600) as view:
        for number in range(5):
            view.show(a_snapshot(succeeded=number))
        view.show(a_snapshot(status="completed", succeeded=1000, finished_at=2.0))
    first, last = file.getvalue().splitlines()
    assert first.startswith("batch 3 running: 0/1,000 done")
    assert last.startswith("batch 3 completed: 1,000/1,000 done")


def test_on_a_terminal_the_view_draws_a_table_by_provider() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=120)
    part = Part("openai", 5, None, 7, 10, 20, (("USD", 1_500_000_000),), 0)
    with LiveView(console) as view:
        view.show(
            a_snapshot(name="[bold]evil", providers=(part,), succeeded=5, blocked="no usable key: x", status="blocked")
        )
    text = file.getvalue()
    for piece in ("[bold]evil", "openai", "1.50 USD", "5/1,000", "no usable key: x", "10 in flight, 985 waiting"):
        assert piece in text


def test_a_snapshot_of_a_big_batch_is_quick(sqlite: Database, config: Config) -> None:
    batch = submitted(sqlite, config, 50_000)
    worker = WorkerByHand(sqlite)
    worker.claim(100)
    began = time.thread_time()  # what others do to the machine meanwhile doesn't count
    seen(sqlite, batch, config)
    assert time.thread_time() - began < 0.25
