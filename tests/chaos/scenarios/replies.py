"""Replies that are broken, late, gigantic, or lie about their tokens: none is taken for an answer that isn't one, none stops the work."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import psutil
import sqlalchemy as sa
import zstandard

from models.tables import attempts, job_inputs, jobs, results
from tests.acceptance.truth import prompt_of
from tests.chaos.ground import Ground, Row
from tests.chaos.registry import scenario
from worker.sandbox.replies import compose, prompt_sha
from worker.sandbox.settings import SandboxSettings

DIALECTS = ("openai", "gemini", "claude")
SPOILT = (
    {"kind": "truncated"},
    {"kind": "rubbish"},
    {"kind": "empty"},
    {"kind": "error_in_200"},
    {"kind": "reset", "when": "after"},
    {"kind": "hang"},
    {"kind": "status", "status": 500},
)
SPOILT_STREAMS = (
    {"kind": "cut_stream"},
    {"kind": "stalled_stream"},
    {"kind": "malformed_chunk"},
    {"kind": "no_finish"},
)
LATE = ({"kind": "slow_first_token", "delay": 0.8}, {"kind": "stalled_stream", "delay": 0.8})
"""Late, and good all the same."""
LIES = ("missing", "null", "text", "digits", "negative", "huge", "partial")
TIMEOUT, SILENCE = 6, 5
"""In seconds; a machine that stands still for less makes no good reply late."""
MEGABYTE = 2**20

Fault = dict[str, Any]


def word(fault: Fault) -> str:
    """What a prompt must hold to meet this fault."""
    return f"{fault['kind']}:{fault.get('delay', fault.get('usage', ''))};"


def asking_for(ground: Ground, faults: Sequence[Fault], each: int, **more: Any) -> list[Row]:
    """So many lines for each fault and provider that meet it once."""
    return [
        line
        for fault in faults
        for line in ground.lines(each * len(ground.providers), words=f"stream{more} {word(fault)}", **more)
    ]


def once(faults: Sequence[Fault]) -> list[Fault]:
    """Faults that hit each prompt that asks for them, the first time."""
    return [{**fault, "contains": word(fault), "times": 1} for fault in faults]


def histories(ground: Ground) -> dict[str, list[Row]]:
    """The calls of each job, oldest first, by its prompt."""
    query = (
        sa.select(attempts, job_inputs.c.body, jobs.c.provider.label("at"))
        .join(job_inputs, job_inputs.c.job_id == attempts.c.job_id)
        .join(jobs, jobs.c.id == attempts.c.job_id)
        .order_by(attempts.c.epoch)
    )
    found: dict[str, list[Row]] = defaultdict(list)
    for row in ground.rows(query):
        found[prompt_of(row["body"], "simple")].append(row)
    return found


def judge_texts(ground: Ground) -> None:
    """Every answer that was kept is the whole answer to its prompt."""
    settings = SandboxSettings()
    query = (
        sa.select(job_inputs.c.body, results.c.text, attempts.c.requested_model)
        .join(job_inputs, job_inputs.c.job_id == results.c.job_id)
        .join(attempts, attempts.c.id == results.c.attempt_id)
    )
    wrong = []
    for row in ground.rows(query):
        prompt = prompt_of(row["body"], "simple")
        expected = compose(prompt, prompt_sha(prompt), row["requested_model"], 1, None, settings).text
        told = zstandard.ZstdDecompressor().decompress(row["text"]).decode() if row["text"] else ""
        if told != expected and not told.startswith(f"{expected}xxx"):
            wrong.append((prompt, told[:60], expected[:60]))
    ground.promise(not wrong, f"{len(wrong)} answers aren't what was said: {wrong[:3]}")


@scenario("broken-replies", short=0.34)
def broken_replies(ground: Ground) -> None:
    """Replies cut, garbled, endless, late or empty, whole and streamed, of all dialects: asked for once more, and only whole ones are kept."""
    faults = [*SPOILT, *SPOILT_STREAMS]
    ground.start(
        latency=0.05,
        rpm=None,
        providers=DIALECTS,
        settings={name: {"timeout_seconds": TIMEOUT, "stream_silence_seconds": SILENCE} for name in DIALECTS},
        sandbox={"faults": [*once(LATE), *once(faults)]},
    )
    each = ground.some(3)
    ground.submit(asking_for(ground, SPOILT, each))
    ground.submit(asking_for(ground, faults, each, stream=True))
    ground.submit(asking_for(ground, LATE, each, stream=True))
    ground.submit(ground.some(150))
    for _ in range(ground.some(2)):
        ground.start_worker()
    ground.finish(120)
    judge_texts(ground)
    made: dict[str, set[int]] = defaultdict(set)
    for prompt, calls in histories(ground).items():
        kind = next((one["kind"] for one in faults if word(one) in prompt), "none")
        made[kind].add(len(calls))
    ground.promise(
        all(numbers == {1 if kind == "none" else 2} for kind, numbers in made.items()), f"calls a job: {dict(made)}"
    )


@scenario("hopeless-rows")
def hopeless_rows(ground: Ground) -> None:
    """Rows whose replies are broken every time, among good ones: three calls each, then they fail with the reason; the others go on."""
    faults: list[Fault] = [*SPOILT, *SPOILT_STREAMS]
    ground.start(
        latency=0.1,
        rpm=600,
        providers=DIALECTS,
        settings={name: {"timeout_seconds": TIMEOUT, "stream_silence_seconds": SILENCE} for name in DIALECTS},
        sandbox={"faults": [{**fault, "contains": word(fault)} for fault in faults]},
    )
    ground.submit(ground.lines(ground.some(1500)))
    hopeless = asking_for(ground, [faults[0]], 1) + asking_for(ground, [faults[4], faults[9]], 1, stream=True)
    ground.submit(hopeless)
    ground.start_worker()
    ground.start_worker()
    ground.may_fail += len(hopeless)
    ground.finish(300)
    judge_texts(ground)
    failed = ground.rows(sa.select(jobs.c.error_code, jobs.c.attempts).where(jobs.c.status == "failed"))
    ground.promise(len(failed) == len(hopeless), f"{len(failed)} of {len(hopeless)} failed")
    ground.promise(
        all(3 <= row["attempts"] <= 5 for row in failed), f"calls a job: {[row['attempts'] for row in failed]}"
    )
    ground.remarks.append(
        f"codes {sorted({row['error_code'] for row in failed})}, calls {[row['attempts'] for row in failed]}"
    )


@scenario("wrong-usage")
def wrong_usage(ground: Ground) -> None:
    """Replies that tell no tokens, negative ones, text or a million times too many: kept, one call each, and no limit shuts for them."""
    lies: list[Fault] = [{"kind": "wrong_usage", "usage": how} for how in LIES]
    limits = {"keys": [{"id": "k", "secret": "sk-chaos-k", "limit_req_per_min": 1200, "limit_tokens_per_min": 60_000}]}
    claude = {
        "keys": [
            {
                "id": "k",
                "secret": "sk-chaos-k",
                "limit_req_per_min": 1200,
                "limit_input_tokens_per_min": 60_000,
                "limit_output_tokens_per_min": 60_000,
            }
        ]
    }
    ground.start(
        latency=0.1,
        rpm=None,
        providers=DIALECTS,
        settings={"openai": limits, "gemini": limits, "claude": claude},
        sandbox={"faults": once(lies)},
    )
    each = ground.some(4)
    for more in ({}, {"stream": True}):
        ground.submit(asking_for(ground, lies, each, max_tokens=100, **more))
    ground.submit(ground.lines(ground.some(240), max_tokens=100))
    ground.start_worker()
    ground.start_worker()
    ground.finish(100)
    judge_texts(ground)
    found = histories(ground)
    ground.promise(all(len(calls) == 1 for calls in found.values()), "an answer without usage was asked for again")
    told = {
        (how, call["input_tokens"] is not None)
        for how in LIES
        for prompt, calls in found.items()
        if f"wrong_usage:{how};" in prompt
        for call in calls
    }
    ground.promise(told == {(how, how == "digits") for how in LIES}, f"lies that became tokens in the ledger: {told}")


class Memory:
    """Watches how much memory processes take at most, until told to end."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self.most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            for process in self._processes:
                try:
                    self.most = max(self.most, process.memory_info().rss)
                except psutil.Error:
                    return

    def end(self) -> int:
        """Megabytes of the largest."""
        self._over.set()
        self._thread.join()
        return self.most // MEGABYTE


@scenario("gigantic-replies")
def gigantic_replies(ground: Ground) -> None:
    """Dozens of replies of 30 MB at once, and some beyond max_response_bytes: all good ones are kept, the worker's memory stays bounded."""
    size, most = 30 * MEGABYTE, 40 * MEGABYTE
    faults: list[Fault] = [
        {"kind": "gigantic", "contains": "giant", "size": size},
        {"kind": "gigantic", "contains": "monster", "size": most + MEGABYTE},
    ]
    ground.start(
        latency=0.0,
        rpm=None,
        sandbox={"faults": faults},
        worker={"concurrency": 32, "grace_seconds": 10, "max_response_bytes": most, "max_attempts": 2},
    )
    ground.submit(ground.lines(ground.some(24, least=6), words="giant"))
    ground.submit(ground.lines(ground.some(8, least=2), words="giant stream", stream=True))
    monsters = ground.lines(4, words="monster")
    ground.submit(monsters)
    ground.submit(100)
    ground.may_fail += len(monsters)
    worker = ground.start_worker()
    ground.until(lambda: ground.registered(worker), "the worker to register", 20)
    memory = Memory([worker.pid])
    ground.finish(240)
    megabytes = memory.end()
    judge_texts(ground)
    # the process, the budget of half-read replies, and the copies in which one reply is taken apart
    bound = 150 + 64 + 13 * most // MEGABYTE
    ground.promise(megabytes <= bound, f"the worker took {megabytes} MB, {bound} may be")
    failed = ground.rows(sa.select(jobs.c.error_code, jobs.c.attempts).where(jobs.c.status == "failed"))
    ground.promise(
        {(row["error_code"], row["attempts"]) for row in failed} == {("reply_too_large", 2)},
        f"the monsters came to {failed}",
    )
    ground.remarks.append(f"at most {megabytes} MB")
