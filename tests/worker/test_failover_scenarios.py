"""The sixteen scenarios of the public Failover Bench (methodology v0.1), played over real HTTP against a real worker.

Times are a tenth of the benchmark's, by configuration. Its four verdicts are kept: pass, partial (rescued, but an advisory check
failed), safe (a clean error) and fail. docs/reliability.md shows them beside those of other clients.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from models.config import Config
from models.config_file import load_config_text
from models.database import Database
from models.packing import Unpacker
from models.store.batches import NewJob
from models.tables import results
from tests.making import attempt_rows, job_rows, make_batch
from tests.worker.bench import Bench, until
from tests.worker.fault_server import ANSWER, USAGE, WORDS, Exchange, Fault, FaultServer, answers, refuses_prefill
from tests.worker.scripted import chat

DATABASES = ["sqlite"]

SILENCE = 3.0
FIRST_TOKEN = 1.0
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def first(fault: Fault) -> Fault:
    """The fault for the first request only."""
    return lambda exchange: fault(exchange) if exchange.seen.number == 1 else exchange.stream()


def refused(status: int, code: str, **headers: str) -> Fault:
    return lambda exchange: exchange.refuse(status, code, f"scripted: {code}", **headers)


def stalls(exchange: Exchange) -> None:
    exchange.stream(WORDS[:20], end=False, done=False)
    exchange.hang()


def slow_first_token(exchange: Exchange) -> None:
    exchange.stream(pause=8 * FIRST_TOKEN)


def cut(exchange: Exchange) -> None:
    exchange.stream(WORDS[:40], end=False, done=False)


@dataclass
class Played:
    """What came of one row: its state, its text, the calls at both candidates and their rows in the ledger."""

    status: str
    code: str | None
    message: str
    text: str
    first: list[float]
    second: list[float]
    ledger: list[Any] = field(default_factory=list)

    @property
    def rescued(self) -> bool:
        return self.status == "succeeded" and self.text == ANSWER


Check = Callable[[Played], bool]


@dataclass(frozen=True)
class Scenario:
    """One fault of the first candidate. `required` and `advisory` are what the benchmark checks besides the rescue; `ideal` is how the
    row should end."""

    fault: Fault
    required: Check = lambda played: True
    advisory: Check = lambda played: True
    second: Fault = answers
    ideal: str = "succeeded"


def at_most(number: int) -> Check:
    return lambda played: len(played.first) <= number


def once(played: Played) -> bool:
    return len(played.first) == 1


def accounted(played: Played) -> bool:
    """The answer is booked at the candidate that gave it, and nothing at the other."""
    *failed, last = played.ledger
    tokens = (last["input_tokens"], last["output_tokens"])
    booked = (last["provider"][-1], last["served_model"], *tokens)
    nothing = all(call["output_tokens"] is None and call["cost_nanos"] is None for call in failed)
    return nothing and booked == ("b", "s16b-model", USAGE["prompt_tokens"], USAGE["completion_tokens"])


SCENARIOS: dict[str, Scenario] = {
    "s01": Scenario(
        first(refused(429, "rate_limit_exceeded", retry_after="2")),
        advisory=lambda played: len(played.first) == 2 and played.first[1] - played.first[0] >= 1.8,
    ),
    "s02": Scenario(
        refused(429, "rate_limit_exceeded"),
        required=lambda played: len(played.first) <= 6 and sum(at - played.first[0] < 3 for at in played.first) <= 4,
    ),
    "s03": Scenario(first(refused(500, "server_error")), advisory=lambda played: len(played.first) >= 2),
    "s04": Scenario(refused(503, "overloaded"), required=at_most(6)),
    "s05": Scenario(first(Exchange.reset)),
    "s06": Scenario(Exchange.hang, advisory=once),
    "s07": Scenario(slow_first_token, advisory=lambda played: len(played.second) == 1),
    "s08": Scenario(cut),
    "s09": Scenario(stalls, advisory=once),
    "s10": Scenario(lambda exchange: exchange.stream(broken=9), advisory=lambda played: played.rescued),
    "s11": Scenario(
        lambda exchange: exchange.stream(done=False),
        required=once,
        advisory=lambda played: played.ledger[-1]["output_tokens"] == USAGE["completion_tokens"],
    ),
    "s12": Scenario(refused(400, "context_length_exceeded"), required=once),
    "s13": Scenario(
        refused(400, "content_policy_violation"),
        required=lambda played: once(played) and played.code == "content_policy_violation",
        advisory=lambda played: not played.second,
        ideal="failed",
    ),
    "s14": Scenario(cut, second=refuses_prefill, required=lambda played: "prefill" not in played.message),
    "s16": Scenario(refused(503, "overloaded"), required=lambda played: at_most(6)(played) and accounted(played)),
}


def verdict(scenario: Scenario, played: Played) -> str:
    truncated = played.status == "succeeded" and played.text != ANSWER
    if truncated or not scenario.required(played) or played.status not in ("succeeded", "failed"):
        return "fail"
    if played.status != scenario.ideal:
        return "safe" if played.status == "failed" else "partial"
    return "pass" if scenario.advisory(played) else "partial"


def configured(url: str, names: dict[str, int]) -> Config:
    """A route of `names[route]` candidates for each name; its providers are `s01a`, `s01b`, …"""
    providers, routes = [], {}
    for name, number in names.items():
        own = [f"{name}{letter}" for letter in "abc"[:number]]
        routes[name] = {"candidates": [f"{one}/m" for one in own], "strategy": "priority"}
        slow = {"first_token_seconds": FIRST_TOKEN, "stream_silence_seconds": 60} if name == "s07" else {}
        providers += [
            {
                "id": one,
                "type": "openai",
                "base_url": f"{url}/{one}/v1",
                "keys": [{"id": f"k{time.time_ns()}", "secret": f"secret-{one}"}],
                "timeout_seconds": 10 * SILENCE,
                "stream_silence_seconds": SILENCE,
                **slow,
            }
            for one in own
        ]
    tree = {"providers": providers, "routes": routes, "worker": {"grace_seconds": 1}}
    return load_config_text(json.dumps(tree), secrets=True, environ={})


async def work_until(worker: Bench, done: Callable[[], bool], seconds: float = 60.0) -> None:
    """Has all runners of a worker work, each as often as there is work, until something holds."""

    async def keep_on(name: str) -> None:
        while not stopping:
            await worker.runners[name].drain(5.0)
            await asyncio.sleep(0.1)

    stopping = False
    working = [asyncio.ensure_future(keep_on(name)) for name in worker.runners]
    try:
        await until(done, seconds)
    finally:
        stopping = True
        for runner in worker.runners.values():
            runner.stop()
        await asyncio.gather(*working)
        await until(lambda: not any(runner.in_flight or runner.held for runner in worker.runners.values()))


def ended(database: Database, batch: int) -> bool:
    return all(row["status"] in ("succeeded", "failed") for row in job_rows(database, batch))


def answered(database: Database, job: int) -> str:
    with database.read() as connection:
        row = connection.execute(sa.select(results.c.text).where(results.c.job_id == job)).first()
    return Unpacker()(row.text).decode() if row is not None and row.text is not None else ""


@pytest.fixture
def serve() -> Iterator[Callable[..., FaultServer]]:
    served: list[FaultServer] = []

    def start(**faults: Fault) -> FaultServer:
        served.append(FaultServer(faults))
        return served[-1]

    yield start
    for one in served:
        one.close()


def play(
    database: Database,
    start_worker: Callable[..., Bench],
    server: FaultServer,
    rows: list[NewJob],
    names: dict[str, int],
) -> dict[str, Played]:
    """Works on one row a route, all at once."""
    worker = start_worker(configured(server.url, names))
    batch = make_batch(database, rows)
    worker.run(work_until(worker, lambda: ended(database, batch)))
    ledger = attempt_rows(database, batch)
    return {
        job["lane"]: Played(
            job["status"],
            job["error_code"],
            job["error_message"] or "",
            answered(database, job["id"]),
            [seen.at for seen in server.calls(f"{job['lane']}a")],
            [seen.at for seen in server.calls(f"{job['lane']}b")],
            [call for call in ledger if call["job_id"] == job["id"]],
        )
        for job in job_rows(database, batch)
    }


def test_every_scenario_passes_and_each_call_is_in_the_ledger(
    database: Database, start_worker: Callable[..., Bench], serve: Callable[..., FaultServer]
) -> None:
    faults = {f"{name}a": one.fault for name, one in SCENARIOS.items()}
    server = serve(**faults, **{f"{name}b": one.second for name, one in SCENARIOS.items()})
    rows = [chat(number, lane=name, stream=True) for number, name in enumerate(SCENARIOS)]
    found = play(database, start_worker, server, rows, dict.fromkeys(SCENARIOS, 2))
    verdicts = {name: verdict(SCENARIOS[name], played) for name, played in found.items()}
    shown = dict(re.findall(r"^\| (S\d\d) \|[^|]+\| (\w+) \|", PAGE.read_text(), re.MULTILINE))
    assert shown.pop("S15") == "pass"  # played below
    assert {name.upper(): one for name, one in verdicts.items()} == shown, found
    assert set(verdicts.values()) == {"pass"}
    for name, played in found.items():
        assert len(played.ledger) == len(played.first) + len(played.second), name
    silent = {name: [call["outcome"] for call in found[name].ledger] for name in ("s06", "s07", "s09")}
    assert set(map(tuple, silent.values())) == {("unknown", "succeeded")}, "it may be billed, once"


@pytest.mark.full
def test_a_provider_that_was_down_serves_again_soon_after_it_is_back(
    database: Database, start_worker: Callable[..., Bench], serve: Callable[..., FaultServer]
) -> None:
    """The fifteenth scenario: 503 for a while, then healthy, and a row every 0.4 s all the while."""
    back = asyncio.Event()

    def flaps(exchange: Exchange) -> None:
        exchange.stream() if back.is_set() else exchange.refuse(503, "overloaded", "scripted: down")

    server = serve(s15a=flaps, s15b=answers)
    worker = start_worker(configured(server.url, {"s15": 2}))
    batches: list[int] = []

    async def rows_come() -> None:
        while not (
            batches and back.is_set() and attempt_rows(database, batches[-1]) and served_by_first(database, batches)
        ):
            batches.append(make_batch(database, [chat(0, lane="s15", stream=True)]))
            await asyncio.sleep(0.4)
            if len(batches) == 20:
                back.set()
            assert len(batches) < 20 + 75, "the first candidate is not used again within 30 s"

    async def story() -> None:
        coming = asyncio.ensure_future(rows_come())
        await work_until(worker, lambda: coming.done() and all(ended(database, one) for one in batches), 90)
        await coming

    worker.run(story(), 120)
    calls = [attempt_rows(database, one) for one in batches]
    assert {rows[-1]["outcome"] for rows in calls} == {"succeeded"}
    in_outage = [call for rows in calls[:19] for call in rows if call["provider"] == "s15a"]
    assert len(in_outage) <= 19, "an open breaker lets few calls through"


def served_by_first(database: Database, batches: list[int]) -> bool:
    return any(
        (call["provider"], call["outcome"]) == ("s15a", "succeeded")
        for one in batches
        for call in attempt_rows(database, one)
    )


def test_a_row_with_a_prefill_goes_on_to_a_candidate_that_takes_it_or_fails_with_all_reasons(
    database: Database, start_worker: Callable[..., Bench], serve: Callable[..., FaultServer]
) -> None:
    missing = refused(404, "model_not_found")
    server = serve(taksa=missing, taksb=refuses_prefill, taksc=answers, nonea=missing, noneb=refuses_prefill)
    talk = [{"role": "user", "content": "Go on"}, {"role": "assistant", "content": "word0"}]
    rows = [chat(number, lane=name, messages=talk, stream=True) for number, name in enumerate(("taks", "none"))]
    found = play(database, start_worker, server, rows, {"taks": 3, "none": 2})
    assert found["taks"].rescued
    assert found["none"].status == "failed"
    assert "assistant message prefill" in found["none"].message
    assert found["none"].message.endswith("(before that nonea: model_not_found)")
    assert len(found["none"].ledger) == 2, "it never loops"
