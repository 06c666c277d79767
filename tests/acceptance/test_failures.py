"""Every row of design §7 happens once for real: a worker process, a database, Valkey, and the sandbox with its faults.

After each test the whole ledger is held against the sandbox's log.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from tests.acceptance.stage import SECRET, Row, Stage
from tests.acceptance.truth import assert_ledger_is_the_log
from tests.servers import SandboxProcess, Valkey
from worker.limits.limiter import Limiter, connect
from worker.pools import limited_key
from worker.sandbox.replies import prompt_sha

Fault = dict[str, Any]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("failures")
    sandbox = subprocess.Popen(
        [sys.executable, "-m", "worker.sandbox", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    assert sandbox.stdout is not None
    url = sandbox.stdout.readline().split()[2]
    valkey = Valkey()
    stage = Stage(folder, SandboxProcess(sandbox, url), valkey)
    yield stage
    stage.worker.send_signal(signal.SIGTERM)
    code = stage.worker.wait(60)
    sandbox.terminate()
    sandbox.wait()
    valkey.close()
    stage.database.close()
    said = stage.output.read_text()
    assert code == 0, said
    assert "canary" not in said, "a secret was told"
    assert "Traceback" not in said, said
    stored = b"".join(path.read_bytes() for path in folder.glob("truckllm.db*"))
    assert b"canary" not in stored, "a secret was stored"


@pytest.fixture
def faults(stage: Stage) -> Iterator[Callable[..., None]]:
    """Sets faults for one test; each names its key, so that no other test's calls are hit."""

    def put(*wanted: Fault) -> None:
        stage.sandbox.faults(*({**fault, "key": SECRET.format(fault["key"])} for fault in wanted))

    yield put
    stage.sandbox.faults()
    assert_ledger_is_the_log(stage.database, stage.sandbox, config=stage.config)


def outcomes(job: Row) -> list[str]:
    return [call["outcome"] for call in job["calls"]]


def states(found: Sequence[Row]) -> Counter[str]:
    return Counter(job["status"] for job in found)


# 429


def test_a_429_makes_its_job_wait_as_long_as_told_while_the_others_go_on(
    stage: Stage, faults: Callable[..., None]
) -> None:
    faults({"kind": "rate_limit", "key": "wait-a", "retry_after": 3, "times": 1})
    found = stage.finish(stage.submit("told-to-wait", 8))
    assert states(found) == {"succeeded": 8}
    (waited,) = [job for job in found if len(job["calls"]) > 1]
    first, second = waited["calls"]
    assert (first["outcome"], first["http_status"]) == ("rate_limited", 429)
    assert second["outcome"] == "succeeded"
    assert second["started_at"] - first["finished_at"] >= 3.0
    others = [job for job in found if job is not waited]
    assert all(call["started_at"] < second["started_at"] for job in others for call in job["calls"])
    assert stage.key_state("wait-a") is None


def test_waiting_for_a_limit_spends_no_retry(stage: Stage, faults: Callable[..., None]) -> None:
    times = stage.config.worker.max_attempts + 1
    faults({"kind": "rate_limit", "key": "stubborn-a", "retry_after": 0.1, "times": times, "contains": "stubborn"})
    (job,) = stage.finish(stage.submit("stubborn"))
    assert outcomes(job) == ["rate_limited"] * times + ["succeeded"]


# Quota


@pytest.mark.parametrize(
    ("lane", "fault", "out", "left", "shortest"),
    [
        ("quota-openai", {"kind": "quota", "key": "qo-a"}, ["qo-a", "qo-b"], "qo-c", 3000),
        ("quota-gemini", {"kind": "quota", "key": "qg-a"}, ["qg-a"], "qg-b", 1),
        ("quota-claude", {"kind": "usage_limit", "key": "qc-a"}, ["qc-a"], "qc-b", 1),
    ],
)
def test_a_pool_without_quota_rests_and_the_other_keys_do_its_work(
    stage: Stage, faults: Callable[..., None], lane: str, fault: Fault, out: list[str], left: str, shortest: float
) -> None:
    faults(fault)
    found = stage.finish(stage.submit(lane, 12))
    assert states(found) == {"succeeded": 12}
    assert {job["calls"][-1]["key_id"] for job in found} == {left}
    for key_id in out:
        state = stage.key_state(key_id)
        assert state is not None
        assert (state["provider"], state["state"]) == (lane, "quarantined")
        assert state["reason"].startswith("quota: ")
        assert state["until"] > stage.now() + shortest
    assert stage.key_state(left) is None
    before = [len(stage.calls(key_id)) for key_id in out]
    again = stage.finish(stage.submit(lane, 6))
    assert {call["key_id"] for job in again for call in job["calls"]} == {left}
    assert [len(stage.calls(key_id)) for key_id in out] == before


# 401


@pytest.mark.parametrize(
    ("lane", "bad", "good"),
    [("revoked-openai", "ro-a", "ro-b"), ("revoked-gemini", "rg-a", "rg-b"), ("revoked-claude", "rc-a", "rc-b")],
)
def test_a_key_that_the_model_list_refuses_too_is_out_for_all_workers(
    stage: Stage, faults: Callable[..., None], lane: str, bad: str, good: str
) -> None:
    faults({"kind": "key_invalid", "key": bad})
    found = stage.finish(stage.submit(lane, 10))
    assert states(found) == {"succeeded": 10}
    assert {job["calls"][-1]["key_id"] for job in found} == {good}
    state = stage.key_state(bad)
    assert state is not None
    assert state["state"] == "quarantined"
    assert state["reason"].startswith("refused: ")
    assert 30 < state["until"] - stage.now() <= 60
    assert any(call["path"].endswith("/models") for call in stage.calls(bad)), "the free model list was asked"
    before = len(stage.calls(bad))
    stage.finish(stage.submit(lane, 6))
    assert len(stage.calls(bad)) == before
    assert blocked_seconds(stage, lane, bad) > 30, "Redis keeps the key from every other worker"
    assert blocked_seconds(stage, lane, good) == 0


def blocked_seconds(stage: Stage, provider: str, key_id: str) -> float:
    settings = stage.config.provider(provider)
    own = settings.key(key_id)
    limited = limited_key(settings, own, "gpt-4o")

    async def ask() -> float:
        client = connect(stage.valkey.url)
        try:
            (room,) = await Limiter(client).room([limited])
        finally:
            await client.aclose()
        return room.blocked

    return asyncio.run(ask())


def test_a_401_that_the_model_list_does_not_confirm_is_only_tried_again(
    stage: Stage, faults: Callable[..., None]
) -> None:
    faults({"kind": "key_invalid", "key": "glitch-a", "calls": "chat", "times": 1})
    (job,) = stage.finish(stage.submit("glitch"))
    assert job["status"] == "succeeded"
    assert [call["http_status"] for call in job["calls"]] == [401, 200]
    assert stage.key_state("glitch-a") is None
    assert [call["path"] for call in stage.calls("glitch-a") if call["path"].endswith("/models")] == [
        "/openai/v1/models"
    ]


# 403 and 404


def test_a_key_that_may_not_use_a_model_leaves_it_to_the_other_key_and_keeps_its_other_models(
    stage: Stage, faults: Callable[..., None]
) -> None:
    faults({"kind": "model_forbidden", "key": "forbidden-a", "model": "gpt-4o"})
    found = stage.finish(stage.submit("forbidden", 6))
    assert states(found) == {"succeeded": 6}
    assert {job["calls"][-1]["key_id"] for job in found} == {"forbidden-b"}
    assert all(outcomes(job) in (["rejected", "succeeded"], ["succeeded"]) for job in found)
    before = len(stage.calls("forbidden-a"))
    assert before > 0
    again = stage.finish(stage.submit("forbidden", 6))
    assert {call["key_id"] for job in again for call in job["calls"]} == {"forbidden-b"}
    assert len(stage.calls("forbidden-a")) == before, "what was said is remembered"
    assert stage.key_state("forbidden-a") is None
    (other,) = stage.finish(stage.submit("forbidden", 1, model="gpt-4o-mini"))
    assert [call["key_id"] for call in other["calls"]] == ["forbidden-a"]


def test_a_model_that_is_gone_is_replaced_by_its_fallbacks_after_one_call_each(
    stage: Stage, faults: Callable[..., None]
) -> None:
    found = stage.finish(stage.submit("renamed", 20, model="missing-one"))
    assert states(found) == {"succeeded": 20}
    asked = Counter(call["requested_model"] for job in found for call in job["calls"])
    assert asked == {"missing-one": 1, "missing-two": 1, "gpt-4o": 20}
    assert {job["calls"][-1]["requested_model"] for job in found} == {"gpt-4o"}


def test_a_model_that_is_gone_sends_the_jobs_of_a_route_to_the_next_provider(
    stage: Stage, faults: Callable[..., None]
) -> None:
    found = stage.finish(stage.submit("renamed-or-spare", 10))
    assert states(found) == {"succeeded": 10}
    assert {job["provider"] for job in found} == {"spare"}
    assert sum(call["provider"] == "gone" for job in found for call in job["calls"]) <= 1


def test_a_model_that_is_nowhere_fails_many_jobs_for_one_call(stage: Stage, faults: Callable[..., None]) -> None:
    batch = stage.submit("gone", 200, model="missing-one")
    found = stage.finish(batch)
    assert {(job["status"], job["error_code"]) for job in found} == {("failed", "model_not_found")}
    assert all("missing-one" in job["error_message"] for job in found)
    assert sum(len(job["calls"]) for job in found) == 1


def test_without_fallback_neither_another_model_nor_another_provider_is_asked(
    stage: Stage, faults: Callable[..., None]
) -> None:
    batches = [
        stage.submit("strict", 5, no_fallback=True, model="missing-four"),
        stage.submit("strict-or-spare", 5, no_fallback=True),
    ]
    for batch, model in zip(batches, ("missing-four", "missing-five"), strict=True):
        found = stage.finish(batch)
        assert {(job["status"], job["error_code"]) for job in found} == {("failed", "model_not_found")}
        assert all(model in job["error_message"] for job in found), "in the provider's own words"
        calls = [call for job in found for call in job["calls"]]
        assert {(call["provider"], call["requested_model"]) for call in calls} == {("strict", model)}
    (job,) = stage.finish(stage.submit("strict", 1, model="missing-four"))
    assert (job["status"], job["calls"][-1]["requested_model"]) == ("succeeded", "gpt-4o"), "others may, as before"


def test_without_fallback_a_job_waits_for_its_provider_and_no_larger_model_is_asked(
    stage: Stage, faults: Callable[..., None]
) -> None:
    faults(
        {"kind": "status", "status": 500, "key": "frail-a", "times": 1},
        {"kind": "context_length", "key": "frail-a", "contains": "long"},
    )
    (job,) = stage.finish(stage.submit("frail-or-large", ["short"], no_fallback=True))
    assert [(call["provider"], call["outcome"]) for call in job["calls"]] == [
        ("frail", "failed"),
        ("frail", "succeeded"),
    ]
    (job,) = stage.finish(stage.submit("frail-or-large", ["long"], no_fallback=True))
    assert (job["status"], job["error_code"]) == ("failed", "context_length_exceeded")
    assert [call["provider"] for call in job["calls"]] == ["frail"]


# The provider in trouble


def test_a_provider_that_fails_is_tried_once_more_at_most_and_then_the_next_of_the_route(
    stage: Stage, faults: Callable[..., None]
) -> None:
    faults({"kind": "status", "status": 500, "key": "broken-a"})
    found = stage.finish(stage.submit("broken-or-spare", 60))
    assert states(found) == {"succeeded": 60}
    assert {job["provider"] for job in found} == {"spare"}
    by_broken = [[call for call in job["calls"] if call["provider"] == "broken"] for job in found]
    assert any(by_broken), "none of 60 jobs went to the broken provider"
    assert max(map(len, by_broken)) <= 2
    assert {(call["outcome"], call["http_status"]) for calls in by_broken for call in calls} == {("failed", 500)}


def test_a_call_that_never_left_is_no_unknown_one_and_the_next_provider_does_it(
    stage: Stage, faults: Callable[..., None]
) -> None:
    found = stage.finish(stage.submit("dead-or-spare", 60))
    assert states(found) == {"succeeded": 60}
    never_left = [call for job in found for call in job["calls"] if call["provider"] == "dead"]
    assert never_left, "none of 60 jobs went to the dead provider"
    assert {(call["outcome"], call["error_code"], call["http_status"]) for call in never_left} == {
        ("failed", "connect_error", None)
    }


def test_an_outage_without_a_route_fails_no_job_and_the_breaker_spares_the_provider(
    stage: Stage, faults: Callable[..., None]
) -> None:
    seconds = 5.0
    faults(
        {"kind": "overloaded", "key": "outage-a", "until": seconds},
        {"kind": "overloaded", "key": "crowd-a", "until": seconds},
    )
    alone, crowd = stage.submit("outage", 2), stage.submit("crowd", 40)
    for batch, number in ((crowd, 40), (alone, 2)):
        found = stage.finish(batch, 60)
        assert states(found) == {"succeeded": number}
        assert all(len(job["calls"]) <= stage.config.worker.max_attempts for job in found)
        assert {outcome for job in found for outcome in outcomes(job)[:-1]} == {"failed"}
    calls = stage.calls("crowd-a")
    assert len({call["prompt_sha"] for call in calls[:40]}) == 40, "all of them went once before anybody knew"
    in_outage = [call for call in calls[40:] if call["fault"]]
    assert len(in_outage) <= 3, "the open breaker lets a probe through every 5 s"
    assert len(calls) <= 40 + 40 + 40, "closed again, each job needs one more call"


def test_calls_without_a_whole_reply_stay_unknown_in_the_ledger_and_are_made_again(
    stage: Stage, faults: Callable[..., None]
) -> None:
    kinds = {
        "truncated": "truncated",
        "reset": "connection_lost",
        "rubbish": "unreadable_reply",
        "empty": "unreadable_reply",
        "hang": "timeout",
    }
    keys = {kind: "impatient-a" if kind == "hang" else "flaky-a" for kind in kinds}
    faults(*({"kind": kind, "key": keys[kind], "contains": kind, "times": 1} for kind in kinds))
    hung, others = stage.submit("impatient", ["hang"]), stage.submit("flaky", [*list(kinds)[:4], *["good"] * 20])
    found = stage.finish(others) + stage.finish(hung)
    assert states(found) == {"succeeded": 25}
    for job, code in zip([*found[:4], found[-1]], kinds.values(), strict=True):
        assert outcomes(job) == ["unknown", "succeeded"]
        assert job["calls"][0]["error_code"] == code
        assert job["calls"][0]["input_tokens"] is None
        assert job["calls"][0]["booked_tokens"] > 0
    assert all(outcomes(job) == ["succeeded"] for job in found[4:-1])


# The request


def test_a_prompt_too_long_for_one_model_goes_to_a_larger_one_of_the_route(
    stage: Stage, faults: Callable[..., None]
) -> None:
    faults({"kind": "context_length", "key": "small-a"})
    found = stage.finish(stage.submit("small-or-large", 60))
    assert states(found) == {"succeeded": 60}
    assert {job["provider"] for job in found} == {"large"}
    moved = [job for job in found if job["calls"][0]["provider"] == "small"]
    assert moved, "none of 60 jobs went to the smaller model first"
    for job in moved:
        assert [(call["provider"], call["outcome"], call["http_status"]) for call in job["calls"]] == [
            ("small", "rejected", 400),
            ("large", "succeeded", 200),
        ]


def test_a_prompt_too_long_fails_at_once_where_nothing_larger_is_left(
    stage: Stage, faults: Callable[..., None]
) -> None:
    faults({"kind": "context_length", "key": "small-a"}, {"kind": "context_length", "key": "large-a"})
    (job,) = stage.finish(stage.submit("small"))
    assert (job["status"], job["error_code"], len(job["calls"])) == ("failed", "context_length_exceeded", 1)
    assert "maximum context length" in job["error_message"]
    (job,) = stage.finish(stage.submit("small-or-large"))
    assert (job["status"], job["error_code"]) == ("failed", "context_length_exceeded")
    assert len(job["calls"]) <= 2


@pytest.mark.parametrize(
    ("lane", "fault", "code", "reason"),
    [
        ("picky", {"kind": "status", "status": 400, "message": "No such thing as 7 legs."}, None, "7 legs"),
        ("picky", {"kind": "status", "status": 422}, None, "could not be followed"),
        ("picky", {"kind": "status", "status": 413}, "request_too_large", "Maximum content size"),
        ("picky", {"kind": "content_filter"}, "content_filter", "content filter"),
        (
            "picky",
            {"kind": "content_filter", "status": 400, "billed": False},
            "content_filter",
            "content management policy",
        ),
        ("picky-gemini", {"kind": "content_filter"}, None, ""),
        ("picky-claude", {"kind": "content_filter"}, None, ""),
    ],
    ids=["400", "422", "413", "filter", "filter as 400", "filter of gemini", "filter of claude"],
)
def test_a_request_that_is_refused_fails_at_once_with_the_providers_own_reason(
    stage: Stage, faults: Callable[..., None], lane: str, fault: Fault, code: str | None, reason: str
) -> None:
    faults({**fault, "key": {"picky": "picky-a", "picky-gemini": "pg-a", "picky-claude": "pc-a"}[lane]})
    (job,) = stage.finish(stage.submit(lane))
    assert job["status"] == "failed"
    assert outcomes(job) == ["rejected"]
    assert job["error_code"] == code or code is None
    assert job["error_message"]
    assert reason in job["error_message"]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 400},
        {"kind": "content_filter"},
        {"kind": "content_filter", "status": 400, "billed": False},
    ],
    ids=["400", "filter", "filter as 400"],
)
def test_what_is_wrong_with_a_request_is_never_asked_of_another_provider(
    stage: Stage, faults: Callable[..., None], fault: Fault
) -> None:
    faults({**fault, "key": "picky-a"})
    found = stage.finish(stage.submit("picky-or-spare", 60))
    refused = [job for job in found if job["calls"][0]["provider"] == "picky"]
    assert refused, "none of 60 jobs went to the picky provider"
    assert {(job["status"], len(job["calls"])) for job in refused} == {("failed", 1)}
    assert {(job["status"], len(job["calls"])) for job in found if job not in refused} <= {("succeeded", 1)}


def test_a_job_bigger_than_a_whole_minute_fails_without_a_call(stage: Stage, faults: Callable[..., None]) -> None:
    batch = stage.submit("narrow", ["words " * 1000, "short"], max_tokens=10)
    big, small = stage.finish(batch)
    assert (big["status"], big["error_code"], big["calls"], big["attempts"]) == ("failed", "too_large", [], 0)
    assert "500" in big["error_message"]
    assert small["status"] == "succeeded"
    prompt = json.loads(stage.rows(sa.text(f"SELECT body FROM job_inputs WHERE job_id = {big['id']}"))[0]["body"])
    assert prompt_sha(prompt["prompt"]) not in {call["prompt_sha"] for call in stage.sandbox.log()}
