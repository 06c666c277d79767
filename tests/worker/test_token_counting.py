"""How a server counts tokens is found out from its replies: by every rule of the sandbox's pools, by factor, window and number of workers;
from headers that are made up nothing is."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.request import StatedLimit
from worker.sandbox.quotas import Pool
from worker.sandbox.settings import Limits
from worker.token_counting import BASES, LARGEST_FACTOR, LEAST_FACTOR, Rule, Sizes, TokenCounting

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
    uneven: float = 0.4,
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
        now += rule.tokens(sizes) / (tpm * pace / 60) * dice.uniform(1 - uneven, 1 + uneven)
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


@pytest.mark.parametrize("workers", [2, 4, 8])
@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_several_workers_find_a_charge_that_refusals_state(factor, workers):
    found, seen = play("both", factor=factor, tpm=200_000, seconds=120, workers=workers, jitter=0.003)
    wrong = [one.rule(MODEL) for one in found if not close(one.rule(MODEL), "both", factor)]
    assert len(wrong) <= workers // 4, wrong
    assert seen["late"] <= 0.005 * seen["answered"]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("headers", ["wrong", "none"])
@pytest.mark.parametrize("counting", list(EXPECTED))
@pytest.mark.parametrize("uneven", [0.0, 0.4])
def test_headers_that_are_made_up_or_absent_teach_nothing(counting, headers, workers, uneven):
    found, _ = play(counting, headers=headers, states=False, workers=workers, seconds=120, uneven=uneven)
    assert {one.rule(MODEL) for one in found} == {Rule()}


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_a_server_that_counts_as_its_dialect_says_keeps_its_rule(factor):
    (found,), _ = play("provider", factor=factor, tpm=200_000, seconds=120)
    assert found.rule(MODEL).basis == "own"
    assert found.rule(MODEL).factor == pytest.approx(factor, rel=0.03)


@settings(max_examples=40, deadline=None)
@given(
    counting=st.sampled_from(list(EXPECTED)),
    factor=st.sampled_from([0.6, 1.0, 1.3, 2.5]),
    headers=st.sampled_from(["right", "none", "wrong"]),
    window=st.sampled_from(["bucket", "fixed", "sliding"]),
    tpm=st.sampled_from([20_000, 60_000, 300_000]),
    pace=st.floats(0.3, 1.5),
    latency=st.sampled_from([0.2, 5.0]),
    workers=st.integers(1, 3),
    uneven=st.sampled_from([0.0, 0.05, 0.4]),
    states=st.booleans(),
    jitter=st.sampled_from([0.0, 0.002, 0.05]),
    seed=st.integers(0, 10**6),
)
def test_a_rule_never_books_much_less_than_the_server_charges_or_the_dialect_says(counting, factor, **server):
    found, _ = play(counting, factor=factor, seconds=40, **server)
    for one in found:
        rule = one.rule(MODEL)
        for sizes in PROBES:
            least = min(sizes.own, charge_of(counting, factor, sizes))
            assert rule.tokens(sizes) >= 0.85 * least, rule


# One call at a time

LIKE = Sizes(own=150, input=100, output=50, bound=150, characters=400)


def asked(charge: int, *, refused: bool = True) -> tuple[StatedLimit, ...]:
    return (StatedLimit("tokens", 30_000, requested=charge, exceeded=refused),)


def sizes_of(prompt: int, bound: int = 150) -> Sizes:
    return Sizes(max(prompt, bound), prompt, 50, bound, 4 * prompt)


def feed(one: TokenCounting, prompts: Any, charge: Any, *, refused: bool = True, at: float = 0.0) -> None:
    for number, prompt in enumerate(prompts):
        handle = one.sent("pool", MODEL, sizes_of(prompt), at + number)
        usage = None if refused else (prompt, 50)
        one.ended(handle, at + number + 0.5, asked(charge(prompt), refused=refused), refused=refused, usage=usage)


def test_a_handful_of_stated_charges_is_enough():
    one = TokenCounting()
    feed(one, [20, 90, 200, 310], lambda prompt: prompt + 150)
    assert one.rule(MODEL) == Rule()
    feed(one, [45, 130, 260], lambda prompt: prompt + 150, at=10)
    assert one.rule(MODEL) == Rule("both", 1.0)
    assert one.rule("another") == Rule()


def test_calls_that_are_all_alike_keep_the_rule_with_a_factor():
    one = TokenCounting()
    feed(one, [100] * 12, lambda _: 250)
    assert one.rule(MODEL).tokens(sizes_of(100)) == pytest.approx(250, rel=0.03)


def test_what_answers_state_that_they_cost_is_the_whole_charge():
    one = TokenCounting()
    feed(one, [20, 90, 200, 310, 45, 130, 260] * 8, lambda prompt: prompt + 50, refused=False)
    assert one.rule(MODEL) == Rule("usage", 1.0)


def test_a_refusal_states_nothing_of_the_output():
    """Stated charges of the input alone may come from a server that adds the output when it has been written."""
    one = TokenCounting()
    feed(one, [200, 310, 450, 520, 260, 600, 380, 700] * 8, lambda prompt: round(1.3 * prompt))
    assert one.rule(MODEL).basis in ("usage", "own")
    assert one.rule(MODEL).tokens(sizes_of(400)) >= 1.3 * 400


def test_a_server_that_changes_its_rule_is_followed():
    one = TokenCounting()
    feed(one, [20, 90, 200, 310, 45, 130, 260], lambda prompt: prompt + 150)
    assert one.rule(MODEL).basis == "both"
    feed(one, [20, 90, 200, 310, 45, 130, 260] * 3, lambda prompt: 2 * (prompt + 150), at=1000)
    assert one.rule(MODEL).tokens(sizes_of(100)) == pytest.approx(500, rel=0.04)


def test_refusals_end_a_rule_that_books_less_than_the_dialect():
    one = TokenCounting("openai")
    one.from_dict({MODEL: {"basis": "input", "factor": 1.0}})
    prompts = [20, 90, 200, 310]
    feed(one, prompts * 4, lambda prompt: prompt, refused=False)
    for number in range(3):
        handle = one.sent("pool", MODEL, sizes_of(20), 100.0 + number)
        one.ended(handle, 100.5 + number, (StatedLimit("tokens", exceeded=True),), refused=True)
    assert one.rule(MODEL) == Rule()
    feed(one, prompts * 20, lambda prompt: prompt, refused=False, at=110.0)
    assert one.rule(MODEL) == Rule(), "it isn't believed again so soon"


def test_calls_that_never_end_hold_up_nothing_for_ever():
    one = TokenCounting()
    one.sent("pool", MODEL, LIKE, 0.0)
    for number in range(2000):
        handle = one.sent("pool", MODEL, LIKE, float(number + 1))
        one.ended(handle, number + 1.5, asked(150, refused=False), usage=(100, 50))
    assert len(one._under_way["pool"]) <= 513


def test_rules_are_kept_and_taken_over():
    one = TokenCounting()
    one.from_dict({"a": {"basis": "both", "factor": 1.25}, "b": {"basis": "own", "factor": 1.0}})
    assert one.to_dict() == {"a": {"basis": "both", "factor": 1.25}}
    other = TokenCounting()
    other.from_dict(one.to_dict())
    assert other.rule("a") == Rule("both", 1.25)
    other.forget("a")
    assert other.rule("a") == Rule()


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.sampled_from(["both", "own"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["m", "basis", "factor"]), inner),
        max_leaves=8,
    )
)
def test_whatever_was_kept_is_taken_over_or_left_out(kept):
    one = TokenCounting()
    one.from_dict(kept)
    for rule in one.to_dict().values():
        assert rule["basis"] in BASES
        assert LEAST_FACTOR <= rule["factor"] <= LARGEST_FACTOR
