"""Who is dead is told by beats that stand still, seen by one who was awake himself; what the dead and the lost leave is healed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from models import processes
from models.database import Database
from models.states import BatchStatus, JobStatus
from models.store import batches as batch_store
from models.store import jobs as job_store
from models.store import workers as worker_store
from models.store.endings import record
from models.tables import jobs, workers
from tests.making import NOW, announce, batch_status, claim, ending, job_rows, make_batch, make_worker, statuses
from tests.servers import wait_for
from tests.worker.bench import Bench, bench
from worker import janitor as janitor_module
from worker import lease as lease_module
from worker.janitor import DEAD_SECONDS, Census

DATABASES = ["sqlite"]

STEP = 5.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def row(number: int, beat: int, **more: Any) -> Any:
    return {
        "id": number,
        "beat": beat,
        "alone_for": None,
        "host": "elsewhere",
        "boot_id": "b",
        "pid": 1,
        "pid_started": 0.0,
        **more,
    }


def watch(census: Census, clock: Clock, seconds: float, rows: Callable[[], list[Any]]) -> list[int]:
    """The dead found by looking every five seconds for so long."""
    found: list[int] = []
    for _ in range(int(seconds / STEP)):
        clock.now += STEP
        found += census.dead(rows(), 1)
    return found


# The census


def test_a_beat_that_stands_still_for_45_seconds_means_dead_and_not_before() -> None:
    clock = Clock()
    census = Census(clock)
    assert census.dead([row(2, 7)], 1) == []
    assert watch(census, clock, DEAD_SECONDS, lambda: [row(2, 7)]) == []
    assert watch(census, clock, STEP, lambda: [row(2, 7)]) == [2]


def test_whoever_beats_in_between_is_alive_whatever_his_clock_says() -> None:
    clock = Clock()
    census = Census(clock)
    beat = iter(range(1000))
    steady = watch(census, clock, 300, lambda: [row(2, next(beat) // 8, heartbeat_at=0.0), row(3, 1)])
    assert 2 not in steady
    assert 3 in steady


def test_nobody_is_dead_for_one_who_did_not_look_himself() -> None:
    clock = Clock()
    census = Census(clock)
    census.dead([row(2, 7)], 1)
    clock.now += 3600
    assert census.dead([row(2, 7)], 1) == [], "asleep, or stopped, for an hour"
    assert watch(census, clock, DEAD_SECONDS, lambda: [row(2, 7)]) == []
    census.restart()
    assert watch(census, clock, DEAD_SECONDS, lambda: [row(2, 7)]) == []
    assert watch(census, clock, 2 * STEP, lambda: [row(2, 7)]) == [2]


def test_oneself_is_never_dead() -> None:
    clock = Clock()
    assert watch(Census(clock), clock, 300, lambda: [row(1, 0)]) == []


def test_a_process_that_is_gone_from_this_machine_is_dead_at_once_and_a_living_one_is_not() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = processes.started(child.pid)
    assert started is not None
    here = {"host": processes.host(), "boot_id": processes.boot_id(), "pid": child.pid}
    living = row(2, 0, **here, pid_started=started)
    reused = row(3, 0, **here, pid_started=started - 1000)
    namesake = row(4, 0, **{**here, "boot_id": "another boot"}, pid_started=started)
    census = Census(Clock())
    assert census.dead([living, reused, namesake], 1) == [3]
    child.kill()
    child.wait()
    assert census.dead([living, namesake], 1) == [2]


def test_a_dead_process_of_suspects_is_left_to_the_worker_that_started_it_while_that_lives() -> None:
    here = {"host": processes.host(), "boot_id": processes.boot_id(), "pid_started": 0.0}
    parent = row(2, 0, **{**here, "pid": os.getpid(), "pid_started": processes.started(os.getpid())})
    apart = row(3, 0, **here, alone_for=2)  # process 1 didn't start then
    clock = Clock()
    census = Census(clock)
    assert census.dead([parent, apart], 1) == []
    assert Census(clock).dead([row(2, 0, **here), apart], 1) == [2, 3]
    assert Census(clock).dead([apart], 1) == [3]
    assert worker_store.gone([parent, apart]) == []
    assert worker_store.gone([row(2, 0, **here), apart]) == [2, 3]
    assert 3 in watch(census, clock, DEAD_SECONDS + STEP, lambda: [parent, apart]), "nor for ever"


@given(st.lists(st.tuples(st.booleans(), st.floats(0.1, 14.9)), max_size=60))
def test_no_order_of_beats_kills_a_worker_that_was_seen_to_beat_within_45_seconds(
    looks: list[tuple[bool, float]],
) -> None:
    clock = Clock()
    census = Census(clock)
    beat, last_change = 0, clock.now
    census.dead([row(2, 0)], 1)
    for beats, pause in looks:
        clock.now += pause
        if beats:
            beat, last_change = beat + 1, clock.now
        dead = census.dead([row(2, beat)], 1)
        assert bool(dead) == (clock.now - last_change > DEAD_SECONDS)


# What a janitor heals


@pytest.fixture
def worker(write_config: Callable[..., Path], database: Database, valkey_url: str) -> Iterator[Bench]:
    path = write_config("http://127.0.0.1:1", providers=("openai", "claude"))
    with bench(path, database, valkey_url) as made:
        yield made


def test_a_dead_workers_jobs_are_queued_again_and_its_row_is_gone(worker: Bench, database: Database) -> None:
    with database.write() as connection:
        dead = worker_store.register(
            connection,
            host=processes.host(),
            boot_id=processes.boot_id(),
            pid=os.getpid(),
            pid_started=-1.0,
            queues=["openai"],
            config_hash="",
            now=NOW,
        )
    batch = make_batch(database, 3)
    announce(database, *claim(database, dead))
    worker.tick()
    assert statuses(database, batch) == ["queued"] * 3
    assert [one["rescues"] for one in job_rows(database, batch)] == [1, 1, 1]
    with database.read() as connection:
        assert [one["id"] for one in worker_store.everyone(connection)] == [worker.lease.worker_id]
    assert worker.rung == ["openai"]


def test_jobs_of_a_worker_without_a_row_are_queued_again(worker: Bench, database: Database) -> None:
    batch = make_batch(database, 2)
    alive = make_worker(database, host="elsewhere")
    claim(database, worker_id=99, most=1)
    claim(database, worker_id=alive, most=1)
    worker.tick()
    assert statuses(database, batch) == ["queued", "running"]


def test_jobs_that_we_run_without_knowing_are_given_back_only_after_a_while(
    worker: Bench, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch(database, 2)
    unheard, known = claim(database, worker.lease.worker_id)
    worker.runners["openai"].held[known.id] = known.epoch
    worker.tick()
    assert statuses(database, batch) == ["running", "running"], "a claim may be on its way to us"
    monkeypatch.setattr(janitor_module, "ORPHAN_SECONDS", 0.0)
    worker.janitor._ticks = 0
    worker.tick()
    assert statuses(database, batch) == ["queued", "running"]
    assert job_rows(database, batch)[0]["id"] == unheard.id
    worker.runners["openai"].held.clear()


def test_a_worker_that_was_taken_for_dead_takes_a_new_number_and_lets_go_of_what_it_held(
    worker: Bench, database: Database
) -> None:
    batch = make_batch(database, 1)
    old = worker.lease.worker_id
    claim(database, old)
    with database.write() as connection:
        worker_store.remove(connection, [old])
        job_store.rescue(connection, [old])
    worker.tick()
    assert worker.lease.worker_id > old
    assert worker.lease.fresh
    assert worker.lease.attempt_id() >> 32 == worker.lease.worker_id
    assert statuses(database, batch) == ["queued"]


def test_a_worker_without_a_confirmed_heartbeat_may_not_send(worker: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker.lease.fresh
    later = lease_module.awake_clock() + lease_module.FRESH_SECONDS
    monkeypatch.setattr(lease_module, "awake_clock", lambda: later)
    assert not worker.lease.fresh
    worker.tick()
    assert worker.lease.fresh


def test_attempt_numbers_are_never_used_twice(worker: Bench) -> None:
    numbers = [worker.lease.attempt_id() for _ in range(1000)]
    assert len(set(numbers)) == 1000
    worker.run(worker.lease.take())
    assert worker.lease.attempt_id() > max(numbers)


def test_it_rings_for_what_waits_where_nobody_drains_and_a_key_is_left(worker: Bench, database: Database) -> None:
    make_batch(database, 1, lane="claude")
    make_batch(database, 1, lane="a provider of other workers")
    worker.tick()
    assert worker.rung == ["claude"]
    worker.runners["claude"].draining = True
    worker.tick()
    assert worker.rung == ["claude"]
    worker.runners["claude"].draining = False


def test_snoozed_jobs_are_woken_and_rung_for(worker: Bench, database: Database) -> None:
    batch = make_batch(database, 2)
    now = worker.recorder.now()
    with database.write() as connection:
        connection.execute(jobs.update().where(jobs.c.position == 0).values(not_before=now - 1))
        connection.execute(jobs.update().where(jobs.c.position == 1).values(not_before=now + 90_000))
    worker.tick()
    assert worker.rung == ["openai"]
    first, second = job_rows(database, batch)
    assert first["not_before"] is None
    assert second["not_before"] < now + 700, "a wait that a wrong clock has set is pulled in"


def test_a_batch_whose_last_committer_died_before_it_looked_is_completed(worker: Bench, database: Database) -> None:
    done, cancelled, going_on = make_batch(database, 1), make_batch(database, 3), make_batch(database, 1)
    (call,) = [call for call in announce(database, *claim(database, 99, most=9)) if call.batch_id == done]
    with database.write() as connection:
        record(connection, [ending(call)], 0, NOW)
        batch_store.cancel(connection, cancelled)
    worker.tick()
    worker.janitor._ticks = 0
    worker.tick()
    wait_for(lambda: batch_status(database, done) == BatchStatus.COMPLETED, "the batch to be completed")
    assert statuses(database, cancelled) == [JobStatus.CANCELLED] * 3
    with database.read() as connection:
        assert batch_store.get(connection, cancelled)["finished_at"] is not None
        assert batch_store.get(connection, going_on)["finished_at"] is None


def test_a_round_that_fails_changes_nothing_and_the_next_one_heals(worker: Bench, database: Database) -> None:
    batch = make_batch(database, 1)
    claim(database, worker_id=99)
    with database.write() as connection:
        connection.execute(sa.text("ALTER TABLE workers RENAME TO hidden"))
    assert worker.run(worker.lease.beat()) is False
    with database.write() as connection:
        connection.execute(sa.text("ALTER TABLE hidden RENAME TO workers"))
    worker.tick()
    worker.janitor._ticks = 0
    worker.tick()
    assert statuses(database, batch) == ["queued"]
    with database.read() as connection:
        assert connection.execute(sa.select(workers.c.beat)).scalar_one() >= 2
