"""Routes and keys under fire: who may be asked instead of whom, and what is said when nobody is left to ask."""

from __future__ import annotations

import json
import subprocess
import time
from collections import defaultdict

import sqlalchemy as sa

from models.states import JobStatus
from models.tables import attempts, jobs
from tests.chaos.ground import MODELS, Ground, Row
from tests.chaos.registry import scenario
from tests.servers import TRUCKLLM
from worker.sandbox.replies import prompt_sha

RPM = 1200
LATENCY = 0.2
SERVED = {"gpt-a": "gpt-a-2026-01-01", "claude-a": "claude-a-20260101"}
WINDOWS = {"openai": 8_000, "claude": 200_000, "gemini": 1_000_000}
BACK = 7.0
"""Seconds from a better candidate's return to its first call: a probe every five, and its turn in the route."""


def routed(ground: Ground, route: str, count: int, words: str = "plain") -> list[Row]:
    """So many lines for a route."""
    found = ground.lines(count, words=f"{words};")
    for line in found:
        del line["provider"], line["model"]
        line["route"] = route
    return found


@scenario("failover-promises")
def failover_promises(ground: Ground) -> None:
    """A route's first provider fails for 20 s: the second does its work, nobody outside is asked, and refused requests go nowhere else."""
    seconds = ground.some(20, least=8)
    ground.start(
        latency=LATENCY,
        rpm=RPM,
        providers=("openai", "claude", "gemini"),
        settings={name: {"models": {MODELS[name]: {"context_window": window}}} for name, window in WINDOWS.items()},
        sandbox={"served_models": SERVED},
        routes={
            "up": {"candidates": ["openai/gpt-a", "claude/claude-a"]},
            "down": {"candidates": ["claude/claude-a", "openai/gpt-a"]},
        },
    )
    plain = routed(ground, "up", ground.some(900, least=300))
    long = routed(ground, "up", 5, "long") + routed(ground, "up", 5, "endless") + routed(ground, "down", 5, "endless")
    refused = [line for words in ("filtered", "wrong") for line in routed(ground, "up", 5, words)]
    crew = [ground.start_worker() for _ in range(2)]
    ground.until(lambda: all(ground.registered(one) for one in crew), "the workers to register", 60)
    ground.may_fail += 10 + len(refused)
    began = time.time()
    ground.sandbox.faults(
        {"kind": "content_filter", "status": 400, "billed": False, "contains": "filtered;"},
        {"kind": "status", "status": 400, "contains": "wrong;"},
        {"kind": "context_length", "contains": "endless;"},
        {"kind": "context_length", "contains": "long;", "provider": "openai"},
        {"kind": "overloaded", "provider": "openai", "until": seconds},
    )
    ground.submit([*plain[:100], *long, *refused, *plain[100:]])
    ground.finish(150)
    calls = ground.log()
    by_sha: dict[str, list[Row]] = defaultdict(list)
    for call in calls:
        by_sha[call["prompt_sha"]].append(call)

    def asked(lines: list[Row]) -> list[list[str]]:
        return [[call["provider"] for call in by_sha[prompt_sha(line["prompt"])]] for line in lines]

    ground.promise(not any(call["provider"] == "gemini" for call in calls), "a provider outside of the route was asked")
    answered = [[one for one in who if one] for who in asked(refused)]
    answers = [call for line in refused for call in by_sha[prompt_sha(line["prompt"])] if call["status"] == 400]
    ground.promise(len(answers) == len(refused), f"{len(answers)} refusals for {len(refused)} requests: {answered}")
    ground.promise(
        all(who[-1] == "claude" for who in asked(long[:5])), f"too long for one, asked were {asked(long[:5])}"
    )
    ground.promise(
        all(who == ["claude"] for who in asked(long[10:])),
        f"too long for the larger one, asked were {asked(long[10:])}",
    )
    won = ground.rows(
        sa.select(attempts.c.provider, attempts.c.requested_model, attempts.c.served_model).where(
            attempts.c.outcome == "succeeded"
        )
    )
    ground.promise(
        all(
            row["requested_model"] == MODELS[row["provider"]] and row["served_model"] == SERVED[row["requested_model"]]
            for row in won
        ),
        "requested or served model isn't in the ledger",
    )
    on = [call["at"] for call in calls if call["provider"] == "openai" and call["status"] == 200]
    ended = began + seconds
    back = min((at for at in on if at >= ended), default=float("inf")) - ended
    ground.promise(back <= BACK, f"the better provider was asked again {back:.1f} s after it was back")
    helped = sum(call["provider"] == "claude" and began <= call["at"] < ended for call in calls)
    ground.promise(helped >= 0.8 * (seconds - 5) * RPM / 60, f"{helped} calls to the second in {seconds} s")
    away = sum(call["fault"] == "overloaded" for call in calls)
    ground.remarks.append(
        f"{away} calls to the one that failed, {helped} to the other meanwhile, back after {back:.1f} s"
    )


@scenario("blocked")
def blocked(ground: Ground) -> None:
    """The only key is revoked in the middle: two workers stop using it at once, `status`, `run` and the logs say why and what to do."""
    ground.start(latency=LATENCY, rpm=RPM, providers=("openai",))
    rows = ground.lines(ground.some(400, least=200))
    ground.expected += len(rows)
    for _ in range(2):
        ground.start_worker()
    path = ground.write(rows)
    run = ground.begin(
        "run",
        path,
        "-c",
        ground.config_path,
        name="run",
        TRUCKLLM_REDIS_URL=ground.valkey.url,
        TRUCKLLM_DATABASE_URL=ground.url,
    )
    ground.until(lambda: ground.ended() >= 20, "the work to be going", 60)
    revoked = time.time()
    ground.sandbox.faults({"kind": "key_invalid"})
    ground.until(lambda: run.poll() is not None, "`run` to give up", 60)
    gave_up = time.time() - revoked
    said = (ground.folder / "run.output").read_text()
    ground.promise(run.returncode == 3, f"run's exit code is {run.returncode}: {said[-500:]}")
    for word in ("blocked", "refused", "replace the secret", "truckllm keys"):
        ground.promise(word in said, f"run doesn't say {word!r}: {said[-600:]}")
    batch = str(ground.rows(sa.text("SELECT id FROM batches"))[0]["id"])

    def ask(*arguments: str) -> str:
        command = [*TRUCKLLM, *arguments, "-c", str(ground.config_path)]
        done = subprocess.run(
            command, cwd=ground.folder, env=ground.environment, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    seen = json.loads(ask("status", batch, "--json"))
    ground.promise(
        seen["status"] == "blocked" and "openai-1" in seen["blocked"], f"status: {seen['status']} {seen['blocked']}"
    )
    told = [worker.output.read_text() for worker in ground.workers]
    ground.promise(any("openai/openai-1" in one and "refused" in one for one in told), f"the logs say {told[0][-400:]}")
    late = [call for call in ground.log() if call["status"] == 401 and call["at"] > revoked + 1.5]
    ground.promise(not late, f"{len(late)} jobs went out on a key that was known to be refused")
    ground.sandbox.faults()
    enabled = time.time()
    ask("keys", "enable", "openai/openai-1")
    ground.finish(60)
    back = min(call["at"] for call in ground.log() if call["status"] == 200 and call["at"] > enabled) - enabled
    ground.promise(back <= 15, f"the first call came {back:.1f} s after `keys enable`")
    refused = sum(call["status"] == 401 for call in ground.log())
    failed = ground.number(sa.select(sa.func.count()).select_from(jobs).where(jobs.c.status == JobStatus.FAILED))
    ground.remarks.append(
        f"{refused} calls refused, {failed} rows failed, `run` gave up after {gave_up:.1f} s, back {back:.1f} s after `keys enable`"
    )
