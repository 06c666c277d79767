"""Calls are booked and settled as the server was found to count, through a real worker against a real sandbox, and by each rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from models.config import ProviderConfig
from models.config_file import load_config_text
from models.database import Database
from models.request import Request, Usage
from models.store.batches import NewJob
from tests.making import make_batch, statuses
from tests.servers import SandboxProcess
from tests.worker.bench import Bench
from worker.bookings import Bookings
from worker.keys import KeyRing
from worker.limits.shapes import Bucket, Charge, LimitedKey
from worker.providers.registry import make_provider
from worker.token_counting import Rule, Sizes

DATABASES = ["sqlite"]
SECRET = "sk-counting-1234567890"
MODEL = "gpt-4o"


def bookings(type_: str = "openai", limits: str = "learn") -> Bookings:
    config = ProviderConfig.model_validate({"id": type_, "keys": [{"id": "k", "secret": SECRET}], "limits": limits})
    ring: Any = KeyRing.__new__(KeyRing)  # booking asks it for nothing
    return Bookings(make_provider(config, None), ring)  # type: ignore[arg-type]


def request(max_tokens: int | None = 300) -> Request:
    fields = {} if max_tokens is None else {"max_tokens": max_tokens}
    return Request(MODEL, {"messages": [{"role": "user", "content": "Hello"}], **fields}, SECRET)


SIZE = (400, 0)


def by(rule: Rule, type_: str = "openai") -> Bookings:
    made = bookings(type_)
    assert made.counting is not None
    made.counting.from_dict({MODEL: rule.to_dict()})
    assert made.counting.rule(MODEL) == rule
    return made


@pytest.mark.parametrize(
    ("rule", "booked", "settled"),
    [
        (Rule("own"), "max(bound, input)", "booked"),
        (Rule("own", 1.5), "1.5 * max(bound, input)", "booked"),
        (Rule("input", 2.0), "2 * input", "2 * 90"),
        (Rule("usage"), "input + bound", "90 + 20"),
        (Rule("both"), "input + bound", "booked"),
        (Rule("both", 1.3), "1.3 * (input + bound)", "booked"),
        (Rule("larger"), "max(bound, input)", "booked"),
        (Rule("max_tokens"), "bound", "booked"),
        (Rule("both_characters"), "400 / 4 + bound", "booked"),
    ],
)
def test_a_call_is_booked_and_settled_by_the_rule_that_was_found(rule, booked, settled):
    made = by(rule)
    charge = made.charge(request(), SIZE)
    names = {"input": charge.input_tokens, "bound": 300, "max": max}
    assert charge.tokens == pytest.approx(eval(booked, names), abs=1)  # noqa: S307 - the test's own words
    names["booked"] = charge.tokens
    actual = made.settled(charge, Usage(input_tokens=90, output_tokens=20), request(), SIZE)
    assert actual is not None
    assert actual.tokens == pytest.approx(eval(settled, names), abs=1)  # noqa: S307


def test_what_max_tokens_reserves_is_corrected_upwards_only():
    made = by(Rule("both"))
    charge = made.charge(request(), SIZE)
    more = made.settled(charge, Usage(input_tokens=charge.input_tokens + 500), request(), SIZE)
    assert more is not None
    assert more.tokens == charge.tokens + 500


def test_dialects_that_settle_by_the_usage_do_so_times_the_factor():
    made = by(Rule("own", 2.0), "claude")
    charge = made.charge(request(), SIZE)
    actual = made.settled(charge, Usage(input_tokens=90, output_tokens=20), request(), SIZE)
    assert actual is not None
    assert actual.tokens == 220


def test_a_rule_makes_no_call_bigger_than_a_minute_of_its_key():
    made = by(Rule("both", 3.0))
    key = LimitedKey("openai/k", "openai/k", (Bucket("t", "tokens", 500),))
    free = LimitedKey("openai/f", "openai/f", ())
    assert made.charge(request(), SIZE, (key,)).tokens == 500
    assert made.charge(request(), SIZE, (key, free)).tokens > 1000
    assert made.charge(request(max_tokens=900), SIZE, (key,)).tokens == 900, "as the dialect says, it is too large"


def test_where_limits_are_fixed_nothing_is_learned():
    made = bookings(limits="fixed")
    assert made.counting is None
    assert made.sent(request(), SIZE, LimitedKey("k", "k", ())) is None
    made.ended(None, None)
    assert made.charge(request(), SIZE) == Charge(
        tokens=300, input_tokens=made.charge(request(), SIZE).input_tokens, output_tokens=300
    )


# Whole


def jobs(count: int) -> list[NewJob]:
    bodies = [
        {"messages": [{"role": "user", "content": f"{n} " + "word " * (20 + n * 37 % 140)}], "max_tokens": 60}
        for n in range(count)
    ]
    return [
        NewJob(n, f"line-{n + 1}", "openai", MODEL, json.dumps(body).encode(), "simple", "chat")
        for n, body in enumerate(bodies)
    ]


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("server", "charge"),
    [
        ({"counts": "both", "count_factor": 1.3}, lambda prompt: 1.3 * (prompt + 60)),
        ({"counts": "both", "headers": "wrong"}, lambda prompt: prompt + 60),
        ({"counts": "usage", "count_factor": 1.3, "window": "sliding"}, lambda prompt: 1.3 * (prompt + 40)),
        ({"counts": "provider"}, lambda prompt: max(prompt, 60)),
    ],
    ids=["both", "wrong headers", "usage", "as its dialect"],
)
def test_once_it_is_learned_how_a_server_counts_hardly_any_call_is_refused(
    server: dict[str, Any],
    charge: Callable[[int], float],
    start_worker: Callable[..., Bench],
    start_sandbox: Callable[..., SandboxProcess],
    database: Database,
) -> None:
    tpm = 200_000
    account = {"provider": "openai", "key": SECRET, "tpm": tpm, **server}
    sandbox = start_sandbox(accounts=[account], output_tokens=40, latency=0.1)
    settings = load_config_text(
        json.dumps(
            {
                "providers": [
                    {
                        "id": "openai",
                        "base_url": f"{sandbox.url}/openai/v1",
                        "limits": "learn",
                        "keys": [{"id": "k", "secret": SECRET, "limit_tokens_per_min": tpm}],
                    }
                ]
            }
        )
    )
    worker = start_worker(settings)
    count = 500
    batch = make_batch(database, jobs(count))

    while not set(statuses(database, batch)) <= {"succeeded", "failed"}:
        worker.drain("openai", 10.0)
        worker.tick()
    assert set(statuses(database, batch)) == {"succeeded"}
    counting = worker.runners["openai"].engine.bookings.counting
    assert counting is not None
    rule = counting.rule(MODEL)
    for prompt in (30, 150):
        sizes = Sizes(max(60, prompt), prompt, 40, 60, 4 * prompt)
        assert rule.tokens(sizes) == pytest.approx(charge(prompt), rel=0.05), rule
    calls = sandbox.log()
    later = calls[2 * len(calls) // 3 :]
    refused = sum(call["limited"] for call in later)
    # a machine that stands still makes calls late, and those come as a burst
    assert refused <= 0.05 * len(later), (rule, refused)
