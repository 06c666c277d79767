"""One row's refusal is its own until it is confirmed; an empty account's keys rest; signals of the configuration count end to end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from models.config_file import load_config_text
from models.database import Database
from models.store import keys as key_store
from tests.acceptance.replay import ScriptedProviders
from tests.making import attempt_rows, job_rows, make_batch, statuses
from tests.worker.bench import Bench
from tests.worker.scripted import chat, chats
from worker.refusals import ANY_KEY, Refusals

DATABASES = ["sqlite"]
GOOD = {
    "body": {
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "fine"}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }
}
Start = Callable[..., Bench]


def refused(status: int, message: str, **more: Any) -> dict[str, Any]:
    return {"status": status, "body": {"error": {"message": message, **more}}}


def listing(*models: str) -> dict[str, Any]:
    return {"body": {"object": "list", "data": [{"id": model} for model in models]}}


@contextmanager
def served(start_worker: Start, settings: dict[str, Any], **providers: dict[str, Any]) -> Iterator[tuple[Bench, Any]]:
    """A worker whose providers answer as told: `replies` and `by` as in the field cases, `settings` by provider's id."""
    server = ScriptedProviders(providers)
    mark = time.time_ns()
    try:
        tree = {
            "providers": [
                {
                    "id": name,
                    "type": "openai",
                    "base_url": f"{server.url}/{name}/v1",
                    "keys": [{"id": f"{name}{mark}-{number}", "secret": f"sk-canary-{number}"} for number in (0, 1)][
                        : 1 + (name == "two")
                    ],
                    **settings.get(name, {}),
                }
                for name in providers
            ],
            "routes": settings.get("routes", {}),
            "worker": {"grace_seconds": 1, "max_attempts": 2, "retry_for": 12, "concurrency": 4},
        }
        yield start_worker(load_config_text(json.dumps(tree), secrets=True, environ={})), server
    finally:
        server.close()


def test_a_page_of_a_firewall_concerns_its_row_alone(start_worker: Start, database: Database) -> None:
    page = {
        "status": 403,
        "headers": {"content-type": "text/html"},
        "body": "<html><title>Blocked</title>account 7, model m</html>",
    }
    batch = make_batch(database, [chat(n, "drop table" if n in (3, 4, 5) else str(n)) for n in range(20)])
    with served(start_worker, {}, p={"replies": [GOOD], "by": [{"prompt": "drop table", "replies": [page]}]}) as (
        worker,
        server,
    ):
        worker.drain("p")
        assert len(server.calls) == 20
    rows = job_rows(database, batch)
    assert [row["position"] for row in rows if row["status"] == "failed"] == [3, 4, 5]
    assert all(row["error_message"].startswith("HTTP 403: Blocked") for row in rows if row["status"] == "failed")


def test_a_page_of_a_firewall_sends_its_row_alone_to_the_next_candidate(
    start_worker: Start, database: Database
) -> None:
    batch = make_batch(database, [chat(n, "drop" if n == 3 else str(n), lane="r") for n in range(8)])
    page = {"status": 403, "body": "<html>no</html>"}
    routes = {"routes": {"r": {"candidates": ["p/m", "q/m"]}}}
    with served(
        start_worker,
        routes,
        p={"replies": [GOOD], "by": [{"prompt": "drop", "replies": [page]}]},
        q={"replies": [GOOD]},
    ) as (worker, server):
        worker.drain("p")
        worker.drain("q")
        assert [call.prompt for call in server.calls if call.provider == "q"] == ["drop"]
    assert statuses(database, batch) == ["succeeded"] * 8


def test_a_flagged_row_stays_with_its_provider_and_its_own_words(start_worker: Start, database: Database) -> None:
    batch = make_batch(database, [chat(n, f"bad {n}" if n < 3 else str(n), lane="r") for n in range(8)])
    by = [
        {"prompt": f"bad {n}", "replies": [refused(403, f"Your input number {n} was flagged", code=403)]}
        for n in range(3)
    ]
    routes = {"routes": {"r": {"candidates": ["p/m", "q/m"]}}}
    with served(start_worker, routes, p={"replies": [GOOD], "by": by}, q={"replies": [GOOD]}) as (worker, server):
        worker.drain("p")
        assert len(server.calls) == 8
    rows = job_rows(database, batch)
    assert [row["error_message"] for row in rows[:3]] == [f"Your input number {n} was flagged" for n in range(3)]
    assert {row["status"] for row in rows[3:]} == {"succeeded"}


def test_a_model_that_the_list_lacks_is_asked_for_once(start_worker: Start, database: Database) -> None:
    batch = make_batch(database, chats(1, model="gone"))
    with served(
        start_worker, {}, p={"replies": [refused(404, "The model `gone` does not exist")], "list": listing("m")}
    ) as (worker, server):
        worker.drain("p")
        second = make_batch(database, chats(3, model="gone"))
        worker.drain("p")
        assert len(server.calls) == 1
    assert job_rows(database, batch)[0]["error_message"] == "The model `gone` does not exist"
    for row in job_rows(database, second):
        assert row["error_message"] == "not sent: p refused the model for other rows: The model `gone` does not exist"


def test_a_key_that_only_the_list_takes_is_out_and_no_row_fails(start_worker: Start, database: Database) -> None:
    batch = make_batch(database, chats(4))
    with served(start_worker, {}, p={"replies": [refused(401, "User not found.")], "list": listing("m")}) as (
        worker,
        server,
    ):
        worker.drain("p")
        assert len(server.calls) <= 5
    assert statuses(database, batch) == ["queued"] * 4
    with database.read() as connection:
        (row,) = key_store.everything(connection)
    assert (row["state"], row["reason"]) == ("quarantined", "refused: User not found.")


def test_without_a_list_a_second_row_confirms_that_a_model_is_gone(start_worker: Start, database: Database) -> None:
    with served(start_worker, {}, p={"replies": [refused(404, "no model gone here")], "list": {"status": 404}}) as (
        worker,
        server,
    ):
        for calls in (1, 2, 2):
            make_batch(database, chats(1, model="gone"))
            worker.drain("p")
            assert len(server.calls) == calls


def test_a_refusal_that_names_the_model_counts_for_nothing_where_the_model_answers(
    start_worker: Start, database: Database
) -> None:
    prompts = ["no" if n % 3 == 1 else str(n) for n in range(12)]
    batch = make_batch(database, [chat(n, prompt) for n, prompt in enumerate(prompts)])
    by = [{"prompt": "no", "replies": [refused(403, "you may not ask m this")]}]
    with served(start_worker, {}, p={"replies": [GOOD], "by": by, "list": listing("m")}) as (worker, server):
        make_batch(database, [chat(0, "first")])
        worker.drain("p")
        assert len(server.calls) == 13
    assert statuses(database, batch).count("succeeded") == 8


def test_a_key_that_may_not_use_the_model_is_left_out_and_the_other_serves(
    start_worker: Start, database: Database
) -> None:
    batch = make_batch(database, chats(6, lane="two"))
    with served(start_worker, {}, two={"replies": [GOOD]}) as (worker, server):
        first = server.next_reply

        def by_key(call: Any) -> dict[str, Any]:
            reply: dict[str, Any] = first(call)
            return refused(403, "This key may not use the model m") if call.authorization.endswith("-0") else reply

        server.next_reply = by_key
        worker.drain("two")
    assert statuses(database, batch) == ["succeeded"] * 6


def test_an_account_without_money_fails_no_row_and_shows_its_words(start_worker: Start, database: Database) -> None:
    batch = make_batch(database, chats(4))
    broke = refused(403, "Your team x has used all available credits. Key sk-canary-0.", code="permission-denied")
    with served(start_worker, {}, p={"replies": [{**broke, "headers": {"retry-after": "900"}}]}) as (worker, server):
        worker.drain("p")
        assert 1 <= len(server.calls) <= 4
        assert worker.keys("p").all_out is not None
    assert statuses(database, batch) == ["queued"] * 4
    with database.read() as connection:
        (row,) = [one for one in key_store.everything(connection) if one["provider"] == "p"]
    assert row["reason"] == "quota: Your team x has used all available credits. Key ***."
    assert 890 < row["until"] - row["since"] <= 901


def test_signals_of_the_configuration_decide_end_to_end(start_worker: Start, database: Database) -> None:
    signals = [
        {"status": 418, "words": "tea * used up", "meaning": "no_money", "wait": "2h"},
        {"code": "try_me", "meaning": "overloaded"},
        {"words": "{model} says no", "meaning": "moderation"},
    ]
    batch = make_batch(database, [chat(0, "again"), chat(1, "never"), chat(2, "tea")])
    by = [
        {"prompt": "again", "replies": [refused(400, "x", code="TRY_ME"), GOOD]},
        {"prompt": "never", "replies": [refused(429, "m says no")]},
        {"prompt": "tea", "replies": [refused(418, "the tea of today is used up")]},
    ]
    with served(start_worker, {"p": {"signals": signals}}, p={"replies": [GOOD], "by": by[:2]}) as (worker, server):
        worker.drain("p")
        time_of_retry = [call.prompt for call in server.calls]
        assert time_of_retry.count("never") == 1
        server.providers["p"]["by"] = by
        with database.write() as connection:
            connection.exec_driver_sql("update jobs set not_before = null where status = 'queued'")
        worker.drain("p")
        make_batch(database, [chat(0, "tea")])
        worker.drain("p")
        assert "quota: the tea of today is used up" in (worker.keys("p").all_out or "")
    rows = {row["position"]: row for row in job_rows(database, batch)}
    assert (rows[1]["status"], rows[1]["error_code"]) == ("failed", "content_filter")
    assert rows[0]["status"] == "succeeded"
    assert [row["outcome"] for row in attempt_rows(database, batch) if row["job_id"] == rows[0]["id"]] == [
        "failed",
        "succeeded",
    ]


def test_what_confirms_a_refusal() -> None:
    now = [0.0]
    refusals = Refusals(lambda: now[0])
    assert not refusals.confirms("k", "m", 1)
    assert not refusals.confirms("k", "m", 1)  # the same row again
    assert not refusals.confirms("k2", "m", 2)  # another key
    assert refusals.confirms("k", "m", 2)
    refusals.answered("k", "m")
    assert not refusals.confirms("k", "m", 3)
    assert not refusals.confirms("k", "m", 4)  # it answered a moment ago
    now[0] += 600
    assert not refusals.confirms("k", "m", 4)
    now[0] += 600
    assert not refusals.confirms("k", "m", 5)  # the other row's refusal is too old
    assert refusals.confirms("k", "m", 6)
    refusals.leave_out(1, ANY_KEY, "m")
    assert refusals.refused(1, "m", ["k", "k2"])
    refusals.leave_out(2, "k", "m")
    assert not refusals.refused(2, "m", ["k", "k2"])
    refusals.leave_out(2, "k2", "m")
    assert refusals.refused(2, "m", ["k", "k2"])
    refusals.forget(2)
    assert not refusals.refused(2, "m", ["k"])
