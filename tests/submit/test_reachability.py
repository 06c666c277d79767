"""A batch is blocked where no provider of it has ever answered, and only there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.config import Config
from models.config_file import load_config_text
from models.database import Database, open_database
from models.states import NEVER_REACHED, WRONG_ENDPOINT, JobStatus, Outcome
from models.store.claims import Claimed
from models.tables import jobs, workers
from submit.producer import submit_batch
from submit.progress import snapshot
from submit.reachability import UNREACHED_SECONDS
from tests.worker_by_hand import WorkerByHand

CONFIG = """
providers:
  - {id: openai, base_url: "http://127.0.0.1:9/v1", keys: [{id: oa-1, secret: s-1}]}
  - {id: claude, keys: [{id: cl-1, secret: s-2}]}
routes: {both: {candidates: [openai/m, claude/m]}}
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


class Stage:
    """Three rows for one lane, and workers of both providers that have started long ago."""

    def __init__(self, database: Database, config: Config, **line: str) -> None:
        self.database, self.config = database, config
        where = line or {"provider": "openai", "model": "m"}
        self.lane = where.get("route", "openai")
        lines = [{"prompt": f"say {n}", **where} for n in range(3)]
        self.batch = submit_batch(lines, config=config, database=database).batch_id
        self.workers = {name: WorkerByHand(database, name) for name in ("openai", "claude")}
        with database.write() as connection:
            self.now = database.now(connection)
            connection.execute(workers.update().values(started_at=self.now - 10 * UNREACHED_SECONDS))

    def begin(self, provider: str, ago: float) -> Claimed:
        """One call that began so many seconds ago."""
        worker = self.workers[provider]
        (job,) = worker.claim(1, lanes=[self.lane])
        worker.announce(job, started_at=self.now - ago)
        return job

    def call(self, code: str | None, ago: float, provider: str = "openai", message: str | None = None) -> None:
        """One call that began so many seconds ago and has failed with this code; None: it succeeded."""
        worker = self.workers[provider]
        (job,) = worker.claim(1, lanes=[self.lane])
        began = self.now - ago
        if code is None:
            worker.succeed(job, started_at=began)
            return
        how = {"outcome": Outcome.FAILED, "http_status": None, "status": JobStatus.QUEUED}
        worker.fail(job, code, started_at=began, **how)  # type: ignore[arg-type]
        with self.database.write() as connection:
            connection.execute(jobs.update().where(jobs.c.id == job.id).values(error_code=code, error_message=message))

    def blocked(self) -> str | None:
        with self.database.read() as connection:
            return snapshot(connection, self.batch, self.config, self.database.now(connection)).blocked


REFUSED = "no connection to 10.0.0.1:9: Connection refused"


@pytest.mark.parametrize("code", sorted(NEVER_REACHED))
def test_a_host_that_no_call_has_reached_for_a_minute_blocks(database: Database, config: Config, code: str) -> None:
    stage = Stage(database, config)
    stage.call(code, UNREACHED_SECONDS / 2, message=REFUSED)
    assert stage.blocked() is None, "not yet"
    stage.call(code, UNREACHED_SECONDS + 1, message=REFUSED)
    stage.call(code, 1, message=REFUSED)
    assert stage.blocked() == f"openai has never answered: {REFUSED}; is base_url right?"


@pytest.mark.parametrize("code", [None, "http_503", "timeout"])
def test_a_host_that_has_answered_since_its_workers_started_is_in_an_outage(
    sqlite: Database, config: Config, code: str | None
) -> None:
    stage = Stage(sqlite, config)
    stage.call(code, 3 * UNREACHED_SECONDS)
    stage.call("connect_error", 2 * UNREACHED_SECONDS)
    stage.call("connect_error", 1)
    assert stage.blocked() is None


def test_what_answered_before_the_workers_started_is_another_story(sqlite: Database, config: Config) -> None:
    stage = Stage(sqlite, config)
    stage.call("http_503", 11 * UNREACHED_SECONDS)
    stage.call("dns_error", 2 * UNREACHED_SECONDS)
    assert (stage.blocked() or "").startswith("openai has never answered: ")


def test_a_call_under_way_that_may_have_found_its_server_is_waited_for(sqlite: Database, config: Config) -> None:
    stage = Stage(sqlite, config)
    stage.call("connect_timeout", 2 * UNREACHED_SECONDS)
    stage.begin("openai", 1)
    assert stage.blocked(), "it may still be connecting"
    stage.begin("openai", 30)
    assert stage.blocked() is None


def test_another_server_than_the_api_blocks_at_once(sqlite: Database, config: Config) -> None:
    stage = Stage(sqlite, config)
    stage.call(WRONG_ENDPOINT, 1, message="Not Found; is base_url right? http://h/x was asked")
    expected = "openai doesn't answer as its API does: Not Found; is base_url right? http://h/x was asked"
    assert stage.blocked() == expected


def test_a_route_is_blocked_only_where_none_of_its_candidates_answers(sqlite: Database, config: Config) -> None:
    stage = Stage(sqlite, config, route="both")
    stage.call("connect_error", 2 * UNREACHED_SECONDS, message=REFUSED)
    assert stage.blocked() is None, "nobody has asked the other one yet"
    stage.call(WRONG_ENDPOINT, 1, "claude", message="a page")
    assert stage.blocked() == (
        "openai has never answered: no connection to 127.0.0.1:9; is base_url right?; claude doesn't answer as its API does: a page"
    )


def test_a_stored_failure_keeps_the_host_that_it_was_about(sqlite: Database, config: Config) -> None:
    stage = Stage(sqlite, config)
    for _ in range(3):
        stage.call("connect_error", 1, message=REFUSED)
    with sqlite.read() as connection:
        (trouble,) = snapshot(connection, stage.batch, config, sqlite.now(connection)).troubles
    assert trouble.sentence.startswith("openai: no connection to 10.0.0.1:9 (3 failures")
