"""How a server counts tokens is found out from its replies: by every rule of the sandbox's pools, by factor, window and number of workers;
from headers that are made up nothing is."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass
from typing import Any

import pytest

from models.request import StatedLimit
from worker.sandbox.quotas import Pool
from worker.sandbox.settings import Limits
from worker.token_counting import Rule, Sizes, TokenCounting

MODEL = "m"


@dataclass
class Server:
    """A sandbox's pool behind headers: `right`, `none` or `wrong`, and refusals that state the charge, or don't."""

    pool: Pool
    states: bool = True

    def limits(self, now: float) -> tuple[StatedLimit, ...]:
        gauge = self.pool.standing(MODEL, now).tokens
        if gauge is None:
            return ()
        return (StatedLimit("tokens", gauge.limit, gauge.remaining, gauge.reset, 60.0, gauge="tokens"),)

    def refusal(self, requested: int, limit: int) -> StatedLimit:
        return StatedLimit("tokens", limit, requested=requested if self.states else None, exceeded=True)


def own_rule(prompt: int, output: int, bound: int) -> int:
    """As OpenAI's dialect books."""
    return max(prompt, bound)


def play(
    counting: str,
    *,
    factor: float = 1.0,
    headers: str = "right",
    window: str = "bucket",
    tpm: int = 20_000,
    pace: float = 0.95,
    seconds: float = 60.0,
    latency: float = 0.5,
    workers: int = 1,
    states: bool = True,
    jitter: float = 0.0,
    estimate_error: float = 0.02,
    seed: int = 1,
    own: Any = own_rule,
) -> tuple[list[TokenCounting], dict[str, int]]:
    """Sends calls of all sizes, as the rule of the first worker books them, at a share `pace` of the limit."""
    dice = random.Random(seed)
    limits = {"tpm": tpm, "counts": counting, "count_factor": factor, "headers": headers, "window": window}
    server = Server(Pool(Limits.model_validate(limits), "openai", 0.0), states)
    found = [TokenCounting("openai") for _ in range(workers)]
    seen = {"answered": 0, "refused": 0, "late": 0}
    order = itertools.count()
    ends: list[tuple[float, int, Any]] = []
    now, turn = 0.0, itertools.cycle(range(workers))
    while now < seconds:
        prompt, output, bound = dice.randint(10, 400), dice.randint(20, 150), dice.choice([150, 200, 400])
        estimate = max(1, round(prompt * dice.gauss(1.0, estimate_error)))
        sizes = Sizes(own(estimate, 85, bound), estimate, 85, bound, prompt * 4)
        one = found[next(turn)]
        rule = one.rule(MODEL)
        now += rule.tokens(sizes) / (tpm * pace / 60) * dice.uniform(0.6, 1.4)
        while ends and ends[0][0] <= now:
            heapq.heappop(ends)[2]()
        at = now + abs(dice.gauss(0.0, jitter)) if jitter else now
        handle = one.sent("pool", MODEL, sizes, now)
        arrives, later = server.pool.charge((max(bound, prompt), 0), prompt, output, bound)
        denial = server.pool.admit(MODEL, arrives, at, 0.0)
        if denial is not None:
            seen["refused"] += 1
            seen["late"] += now > seconds / 2
            stated = (*server.limits(at), server.refusal(denial.requested, denial.limit))
            one.ended(handle, at, stated, refused=True)
            continue
        stated = server.limits(at)
        done = at + latency * dice.uniform(0.5, 1.5)

        def end(handle=handle, one=one, stated=stated, done=done, prompt=prompt, output=output, later=later) -> None:
            if later:
                server.pool.charge_output(MODEL, later, done)
            one.ended(handle, done, stated, usage=(prompt, output))

        heapq.heappush(ends, (done, next(order), end))
        seen["answered"] += 1
    return found, seen


EXPECTED = {
    "prompt": "input",
    "max_tokens": "max_tokens",
    "both": "both",
    "usage": "usage",
    "provider": "own",
}


def charge_of(counting: str, factor: float, sizes: Sizes) -> float:
    whole = {
        "prompt": sizes.input,
        "max_tokens": sizes.bound,
        "both": sizes.input + sizes.bound,
        "usage": sizes.input + sizes.output,
        "provider": max(sizes.input, sizes.bound),
    }
    return factor * whole[counting]


PROBES = [Sizes(max(p, m), p, o, m, 4 * p) for p in (10, 100, 400) for o in (20, 150) for m in (150, 400)]


def close(rule: Rule, counting: str, factor: float, tolerance: float = 0.08) -> bool:
    return all(
        abs(rule.tokens(one) - charge_of(counting, factor, one)) <= tolerance * charge_of(counting, factor, one) + 2
        for one in PROBES
    )


@pytest.mark.parametrize("window", ["bucket", "fixed", "sliding"])
@pytest.mark.parametrize("factor", [1.0, 1.3, 2.0])
@pytest.mark.parametrize("counting", list(EXPECTED))
def test_one_worker_finds_every_rule(counting, factor, window):
    (found,), seen = play(
        counting, factor=factor, window=window, tpm=60_000 if window == "bucket" else 20_000, seconds=120
    )
    assert close(found.rule(MODEL), counting, factor), (found.rule(MODEL), seen)
