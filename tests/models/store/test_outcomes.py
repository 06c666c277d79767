"""Reads for people: pages in input order and of bounded size, listings, the lanes that wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from models.config_file import load_config_text
from models.database import Database
from models.states import JobStatus
from models.store import jobs, outcomes
from submit.producer import submit_batch
from tests.worker_by_hand import WorkerByHand

CONFIG = """
providers:
  - {id: openai, keys: [{id: oa-1, secret: s-1, limit_req_per_min: 1, limit_tokens_per_min: 1}]}
  - {id: claude, keys: [{id: cl-1, secret: s-2, limit_req_per_min: 1, limit_tokens_per_min: 1}]}
routes:
  both: {candidates: [openai/gpt-4o, claude/claude-x]}
"""


def submitted(database: Database, lines: Sequence[dict[str, Any]]) -> int:
    return submit_batch(lines, config=load_config_text(CONFIG), database=database).batch_id


def simple(number: int, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"say {n}", "model": "gpt-4o", **more} for n in range(number)]


def test_pages_follow_the_order_of_the_input_and_end(database: Database) -> None:
    batch = submitted(database, simple(7))
    seen: list[str] = []
    sizes: list[int] = []
    after = -1
    with database.read() as connection:
        while page := outcomes.page(connection, batch, after, most=3):
            sizes.append(len(page))
            seen += [row["custom_id"] for row in page]
            after = page[-1]["position"]
    assert seen == [f"line-{n}" for n in range(1, 8)]
    assert sizes == [3, 3, 1]


def test_a_page_is_bounded_in_bytes_but_holds_at_least_one_job(database: Database) -> None:
    lines = simple(4)
    lines[1]["prompt"] = "x" * 5000
    batch = submitted(database, lines)
    with database.read() as connection:
        first = outcomes.page(connection, batch, -1, most_bytes=1000)
        second = outcomes.page(connection, batch, 0, most_bytes=1000)
        third = outcomes.page(connection, batch, 1, most_bytes=1000)
    assert [row["position"] for row in first] == [0]
    assert [row["position"] for row in second] == [1]
    assert [row["position"] for row in third] == [2, 3]


def test_answers_count_for_the_size_of_a_page(database: Database) -> None:
    batch = submitted(database, simple(3))
    worker = WorkerByHand(database)
    noise = bytes(range(256)) * 40
    for job in worker.claim(3):
        worker.succeed(job, text="".join(chr(0x4E00 + (byte * 37 + n * 7919) % 20000) for n, byte in enumerate(noise)))
    with database.read() as connection:
        assert len(outcomes.page(connection, batch, -1, most_bytes=1 << 30)) == 3
        assert len(outcomes.page(connection, batch, -1, most_bytes=8000)) == 1


def test_a_row_tells_of_the_call_that_made_the_result(database: Database) -> None:
    batch = submitted(database, simple(1))
    worker = WorkerByHand(database)
    job = worker.claim()[0]
    worker.fail(job, "http_503", status=JobStatus.QUEUED)
    call = worker.succeed(worker.claim()[0], model="gpt-4o-mini", cost_nanos=77)
    with database.read() as connection:
        (row,) = outcomes.page(connection, batch, -1)
    assert (row["status"], row["attempts"], row["call_id"]) == ("succeeded", 2, call)
    assert (row["key_id"], row["requested_model"], row["served_model"]) == ("oa-1", "gpt-4o-mini", "gpt-4o-mini-0806")
    assert (row["cost_nanos"], row["currency"], row["http_status"], row["finish_reason"]) == (77, "USD", 200, "stop")


def test_a_failed_job_tells_of_its_last_call_and_an_open_one_of_none(database: Database) -> None:
    batch = submitted(database, simple(2))
    worker = WorkerByHand(database)
    worker.fail(worker.claim()[0], "http_503", status=JobStatus.QUEUED)
    last = worker.fail(worker.claim()[0], "bad_request", "the model can't do that")
    worker.announce(worker.claim()[0])
    with database.read() as connection:
        failed, running = outcomes.page(connection, batch, -1)
    assert (failed["status"], failed["call_id"], failed["http_status"]) == ("failed", last, 400)
    assert (failed["error_code"], failed["error_message"]) == ("bad_request", "the model can't do that")
    assert (running["status"], running["call_id"], running["key_id"]) == ("running", None, None)


def test_only_what_a_dialect_shows_is_fetched(database: Database) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
    lines = [
        {"prompt": "hi", "model": "gpt-4o"},
        {"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": body},
    ]
    batch = submitted(database, lines)
    worker = WorkerByHand(database)
    for job in worker.claim(2):
        worker.succeed(job)
    with database.read() as connection:
        own, openai = outcomes.page(connection, batch, -1)
    assert own["body"] is not None
    assert own["response"] is None
    assert openai["body"] is None
    assert openai["response"] is not None


@pytest.mark.parametrize("status", [None, JobStatus.QUEUED, JobStatus.FAILED, JobStatus.SUCCEEDED])
def test_a_listing_can_be_narrowed_to_a_status(database: Database, status: JobStatus | None) -> None:
    batch = submitted(database, simple(4))
    worker = WorkerByHand(database)
    first, second = worker.claim(2)
    worker.succeed(first)
    worker.fail(second)
    expected = {None: 4, JobStatus.QUEUED: 2, JobStatus.FAILED: 1, JobStatus.SUCCEEDED: 1}
    with database.read() as connection:
        rows = outcomes.listing(connection, batch, status=status)
        assert len(rows) == expected[status]
        assert [row["position"] for row in outcomes.listing(connection, batch, after=1, most=1)] == [2]


def test_failures_are_counted_where_they_happened(database: Database) -> None:
    batch = submitted(database, [*simple(2, provider="openai"), *simple(1, provider="claude", id="c")])
    for worker in (WorkerByHand(database), WorkerByHand(database, "claude")):
        for job in worker.claim(2):
            worker.fail(job)
    with database.read() as connection:
        assert outcomes.failures(connection, batch)[0] == {"openai": 2, "claude": 1}


def test_lanes_that_wait_include_the_snoozed_and_leave_out_the_running(database: Database) -> None:
    lines = [
        *simple(1, provider="openai", id="o"),
        *simple(1, provider="claude", id="c"),
        *simple(1, route="both", id="r"),
    ]
    batch = submitted(database, lines)
    with database.read() as connection:
        assert outcomes.queued_lanes(connection, batch) == {"openai", "claude", "both"}
    openai, claude = WorkerByHand(database), WorkerByHand(database, "claude")
    job = openai.claim()[0]
    claude.claim()
    with database.write() as connection:
        jobs.give_back(connection, {job.id: job.epoch}, not_before=4e9)
    with database.read() as connection:
        assert outcomes.queued_lanes(connection, batch) == {"openai", "both"}


def test_a_job_waits_only_for_providers_that_have_not_failed_it(database: Database) -> None:
    batch = submitted(database, simple(1, route="both"))
    with database.write() as connection:
        from models.tables import jobs as table

        connection.execute(table.update().values(excluded=",openai,"))
    with database.read() as connection:
        assert outcomes.waits_for_any(connection, batch, "both", ["openai", "claude"])
        assert not outcomes.waits_for_any(connection, batch, "both", ["openai"])
        assert not outcomes.waits_for_any(connection, batch, "both", [])
