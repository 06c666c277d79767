"""Every row of design §7 happens once for real: a worker process, a database, Valkey, and the sandbox with its faults.

One worker serves a provider for each test, so that no test meets what another has done to a key, a breaker or a model. After each
test the whole ledger is held against the sandbox's log.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from models.config import Config
from models.config_file import load_config
from models.database import Database, upgrade
from models.tables import attempts, batches, jobs, key_states
from submit.producer import submit_batch
from tests.acceptance.truth import assert_ledger_is_the_log
from tests.conftest import TRUCKLLM, SandboxProcess, Valkey, wait_for
from worker.keys import buckets, pool_name
from worker.limits.limiter import LimitedKey, Limiter, connect
from worker.sandbox.quotas import key_name
from worker.sandbox.replies import prompt_sha

SECRET = "sk-canary-{}-5d1f0c"
"""Secrets of all keys; none may show up in what the worker says or in the database."""

Row = Mapping[str, Any]
Fault = dict[str, Any]


def key(name: str, cost: str = "0.01", **more: Any) -> dict[str, Any]:
    """A key; the cheaper one is used first."""
    pricing = {"input_token_cost": cost, "output_token_cost": cost, "currency": "USD"}
    return {"id": name, "secret": SECRET.format(name), "pricing": pricing, **more}


SLOW_TO_ASK = {"limit_req_per_min": 60}
"""One call a second: a second one comes after the first one's answer."""

PROVIDERS: dict[str, dict[str, Any]] = {
    "told-to-wait": {"keys": [key("wait-a", "0.001"), key("wait-b")]},
    "stubborn": {"keys": [key("stubborn-a")]},
    "quota-openai": {"keys": [key("qo-a", "0.001", pool="qo"), key("qo-b", "0.002", pool="qo"), key("qo-c")]},
    "quota-gemini": {"type": "gemini", "keys": [key("qg-a", "0.001"), key("qg-b")]},
    "quota-claude": {"type": "claude", "keys": [key("qc-a", "0.001"), key("qc-b")]},
    "revoked-openai": {"keys": [key("ro-a", "0.001"), key("ro-b")]},
    "revoked-gemini": {"type": "gemini", "keys": [key("rg-a", "0.001"), key("rg-b")]},
    "revoked-claude": {"type": "claude", "keys": [key("rc-a", "0.001"), key("rc-b")]},
    "glitch": {"keys": [key("glitch-a")]},
    "liar": {"keys": [key("liar-a")]},
    "forbidden": {"keys": [key("forbidden-a", "0.001"), key("forbidden-b")]},
    "renamed": {
        "keys": [key("renamed-a")],
        "fallback_models": {"missing-one": ["missing-two", "gpt-4o"]},
        "models": {"missing-one": SLOW_TO_ASK, "missing-two": SLOW_TO_ASK},
    },
    "gone": {"keys": [key("gone-a")], "models": {"missing-one": SLOW_TO_ASK, "missing-three": SLOW_TO_ASK}},
    "broken": {"keys": [key("broken-a")]},
    "dead": {"base_url": "http://127.0.0.1:1/v1", "keys": [key("dead-a")]},
    "spare": {"keys": [key("spare-a", limit_req_per_min=1200)]},
    "outage": {"keys": [key("outage-a")]},
    "crowd": {"keys": [key("crowd-a")]},
    "flaky": {"keys": [key("flaky-a")], "timeout_seconds": 1.0},
    "small": {"keys": [key("small-a")], "models": {"gpt-4o": {"context_window": 1000}}},
    "large": {"keys": [key("large-a", limit_req_per_min=1200)], "models": {"gpt-4o": {"context_window": 9000}}},
    "picky": {"keys": [key("picky-a")]},
    "picky-claude": {"type": "claude", "keys": [key("pc-a")]},
    "picky-gemini": {"type": "gemini", "keys": [key("pg-a")]},
    "narrow": {"keys": [key("narrow-a", limit_tokens_per_min=500)]},
}
ROUTES = {
    "renamed-or-spare": {"candidates": ["gone/missing-three", "spare/gpt-4o"]},
    "broken-or-spare": {"candidates": ["broken/gpt-4o", "spare/gpt-4o"]},
    "dead-or-spare": {"candidates": ["dead/gpt-4o", "spare/gpt-4o"]},
    "small-or-large": {"candidates": ["small/gpt-4o", "large/gpt-4o"]},
}
MODELS = {"openai": "gpt-4o", "gemini": "gemini-3.5-flash", "claude": "claude-sonnet-5-5"}


class Stage:
    """A worker process at work between a database, Valkey and a sandbox."""

    def __init__(self, folder: Path, sandbox: SandboxProcess, valkey: Valkey) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.valkey = valkey
        self.url = f"sqlite:///{folder}/truckllm.db"
        self.database = Database(self.url)
        upgrade(self.database)
        self.path = folder / "truckllm.yaml"
        self.path.write_text(yaml.safe_dump(self._tree()))
        self.config: Config = load_config(
            self.path,
            secrets=True,
            environ={"TRUCKLLM_REDIS_URL": valkey.url, "TRUCKLLM_DATABASE_URL": self.url},
        )
        self.output = folder / "worker.output"
        self._numbers = iter(range(10**6))
        self.worker = self._start()

    def _tree(self) -> dict[str, Any]:
        def whole(name: str, settings: dict[str, Any]) -> dict[str, Any]:
            kind = settings.get("type", "openai")
            return {"id": name, "type": kind, "base_url": f"{self.sandbox.url}/{kind}/v1", **settings}

        providers = [whole(name, settings) for name, settings in PROVIDERS.items()]
        return {"providers": providers, "routes": ROUTES, "worker": {"grace_seconds": 5}}

    def _start(self) -> subprocess.Popen[bytes]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TRUCKLLM_")}
        urls = {"TRUCKLLM_REDIS_URL": self.valkey.url, "TRUCKLLM_DATABASE_URL": self.url}
        with self.output.open("ab") as output:
            process = subprocess.Popen(
                [*TRUCKLLM, "worker", "-c", str(self.path)],
                cwd=self.folder,
                env={**kept, **urls, "TRUCKLLM_HOME": str(self.folder / "home")},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_for(lambda: self.rows(sa.text("SELECT id FROM workers")), "the worker to register")
        return process

    # What tests do

    def submit(self, lane: str, prompts: int | Sequence[str] = 1, **more: Any) -> int:
        """A batch of these prompts (or of so many) for a provider or a route."""
        kind = PROVIDERS.get(lane, {}).get("type", "openai")
        place = {"route": lane} if lane in ROUTES else {"provider": lane, "model": MODELS[kind]}
        words = [f"{lane} {n}" for n in range(prompts)] if isinstance(prompts, int) else prompts
        # no two prompts of this module are alike, so that each call belongs to one job
        lines = [{"prompt": f"{word} #{next(self._numbers)}", **place, **more} for word in words]
        return submit_batch(lines, config=self.config, database=self.database).batch_id

    def finish(self, batch: int, seconds: float = 30.0) -> list[Row]:
        """The batch's jobs once all have ended, with their calls under `calls`, oldest first."""

        def ended() -> bool:
            if self.worker.poll() is not None:
                pytest.fail(f"the worker has ended: {self.output.read_text()}")
            return bool(
                self.rows(sa.select(batches.c.id).where(batches.c.id == batch, batches.c.finished_at.is_not(None)))
            )

        try:
            wait_for(ended, f"batch {batch} to end", seconds)
        except pytest.fail.Exception as error:
            left = Counter((job["status"], job["error_code"], len(job["calls"])) for job in self.jobs(batch))
            pytest.fail(f"{error}; its jobs (status, code, calls): {dict(left)}\n{self.output.read_text()[-3000:]}")
        return self.jobs(batch)

    def jobs(self, batch: int) -> list[Row]:
        calls: dict[int, list[Row]] = {}
        by_time = sa.select(attempts).where(attempts.c.batch_id == batch).order_by(attempts.c.started_at, attempts.c.id)
        for row in self.rows(by_time):
            calls.setdefault(row["job_id"], []).append(row)
        found = self.rows(sa.select(jobs).where(jobs.c.batch_id == batch).order_by(jobs.c.position))
        return [{**row, "calls": calls.get(row["id"], [])} for row in found]

    def rows(self, query: Any) -> list[Row]:
        with self.database.read() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def key_state(self, key_id: str) -> Row | None:
        found = self.rows(sa.select(key_states).where(key_states.c.key_id == key_id))
        return found[0] if found else None

    def calls(self, key_id: str) -> list[Row]:
        """What the sandbox saw of a key, its questions for the model list included."""
        name = key_name(SECRET.format(key_id))
        return [row for row in self.sandbox.log() if row["key_id"] == name]

    def now(self) -> float:
        return time.time()


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
    code = stage.worker.wait(20)
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
    faults({"kind": "rate_limit", "key": "wait-a", "retry_after": 2, "times": 1})
    found = stage.finish(stage.submit("told-to-wait", 8))
    assert states(found) == {"succeeded": 8}
    (waited,) = [job for job in found if len(job["calls"]) > 1]
    first, second = waited["calls"]
    assert (first["outcome"], first["http_status"]) == ("rate_limited", 429)
    assert second["outcome"] == "succeeded"
    assert second["started_at"] - first["finished_at"] >= 2.0
    others = [job for job in found if job is not waited]
    assert all(job["finished_at"] < second["started_at"] for job in others)
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
    limited = LimitedKey(f"{provider}/{key_id}", pool_name(settings, own), buckets(settings, own, "gpt-4o"))

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
    began = stage.now()
    alone, crowd = stage.submit("outage", 2), stage.submit("crowd", 40)
    for batch, number in ((crowd, 40), (alone, 2)):
        found = stage.finish(batch, 60)
        assert states(found) == {"succeeded": number}
        assert all(len(job["calls"]) <= stage.config.worker.max_attempts for job in found)
        assert {outcome for job in found for outcome in outcomes(job)[:-1]} == {"failed"}
    calls = stage.calls("crowd-a")
    assert sum(call["at"] < began + 1.5 for call in calls) >= 40, "all of them went once before anybody knew"
    in_outage = [call for call in calls if began + 1.5 <= call["at"] < began + seconds]
    assert len(in_outage) <= 3, "the open breaker lets a probe through every 5 s"
    assert len(calls) <= 40 + 40 + 40, "closed again, each job needs one more call"


def test_calls_without_a_whole_reply_stay_unknown_in_the_ledger_and_are_made_again(
    stage: Stage, faults: Callable[..., None]
) -> None:
    kinds = {
        "truncated": "truncated",
        "reset": "connection_lost",
        "hang": "timeout",
        "rubbish": "unreadable_reply",
        "empty": "unreadable_reply",
    }
    faults(*({"kind": kind, "key": "flaky-a", "contains": kind, "times": 1} for kind in kinds))
    found = stage.finish(stage.submit("flaky", [*kinds, *["good"] * 20]))
    assert states(found) == {"succeeded": 25}
    for job, code in zip(found, kinds.values(), strict=False):
        assert outcomes(job) == ["unknown", "succeeded"]
        assert job["calls"][0]["error_code"] == code
        assert job["calls"][0]["input_tokens"] is None
        assert job["calls"][0]["booked_tokens"] > 0
    assert all(outcomes(job) == ["succeeded"] for job in found[5:])


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


def test_a_job_bigger_than_a_whole_minute_fails_without_a_call(stage: Stage, faults: Callable[..., None]) -> None:
    batch = stage.submit("narrow", ["words " * 1000, "short"], max_tokens=10)
    big, small = stage.finish(batch)
    assert (big["status"], big["error_code"], big["calls"], big["attempts"]) == ("failed", "too_large", [], 0)
    assert "500" in big["error_message"]
    assert small["status"] == "succeeded"
    prompt = json.loads(stage.rows(sa.text(f"SELECT body FROM job_inputs WHERE job_id = {big['id']}"))[0]["body"])
    assert prompt_sha(prompt["prompt"]) not in {call["prompt_sha"] for call in stage.sandbox.log()}
