"""Servers in virtual time, with the sandbox's own quotas: limits of any kind, latencies, refusals that no limit causes.

A scenario is a server, what its keys are configured with, and who calls it. `drawn` makes any number of them, each from a seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from models.request import Failure, FailureKind, LimitUnit, StatedLimit
from worker.limits.limiter import Named
from worker.limits.shapes import Unit
from worker.sandbox.quotas import Pool
from worker.sandbox.settings import Limits

NAMED: dict[tuple[str, str], Named] = {("openai", "concurrent"): "pool", ("claude", "concurrent"): ""}
"""What the sandbox's refusals name, where that isn't the model."""


@dataclass(frozen=True)
class Latency:
    """Seconds that a call takes: `mean`, the same each time or spread; with more than `above` calls in flight `beyond` instead, where that
    is given, and `growth` more for each."""

    mean: float = 0.5
    kind: Literal["constant", "exponential", "lognormal"] = "constant"
    above: int = 0
    beyond: float | None = None
    growth: float = 0.0

    def draw(self, dice: random.Random, in_flight: int) -> float:
        spread = {
            "constant": lambda: 1.0,
            "exponential": lambda: dice.expovariate(1.0),
            "lognormal": lambda: dice.lognormvariate(-0.32, 0.8),  # of mean 1
        }[self.kind]()
        mean = self.mean if self.beyond is None or in_flight <= self.above else self.beyond
        return mean * spread + self.growth * max(0, in_flight - self.above)


@dataclass(frozen=True)
class Scenario:
    """`limits` are those of a sandbox account, for each key; `configured` limits a minute by unit, for each key, `configured_of`
    those of single models. `stray` is the share of
    calls that are refused for no reason, `stated` what all refusals state as the wait where that isn't the limits' own answer."""

    limits: Mapping[str, Any]
    configured: Mapping[Unit, int] = field(default_factory=dict)
    configured_of: Mapping[str, Mapping[Unit, int]] = field(default_factory=dict)
    latency: Latency = Latency()
    keys: int = 1
    workers: int = 2
    concurrency: int = 256
    models: tuple[str, ...] = ("m",)
    prompt: tuple[int, int] = (100, 100)
    output: int = 40
    max_tokens: int = 60
    stray: float = 0.0
    stalls: float = 0.0
    """The machine of the workers stands still every 3 s or so, for so many seconds on average: calls start late, and together."""
    names_limit: bool = True
    """Whether a refusal says which limit it is about."""
    provider: Literal["openai", "gemini", "claude"] = "openai"
    seed: int = 1

    def __str__(self) -> str:
        defaults = Scenario({})
        shown = {
            name: value for name, value in vars(self).items() if value != getattr(defaults, name) or name == "limits"
        }
        return ", ".join(f"{name}={value}" for name, value in shown.items())

    def with_limits(self, **changes: Any) -> Scenario:
        """The same with other limits; None takes one away."""
        limits = {name: value for name, value in {**self.limits, **changes}.items() if value is not None}
        return replace(self, limits=limits)

    @property
    def mean_tokens(self) -> float:
        """Tokens that the server takes for a call, on average."""
        low, high = self.prompt
        prompt = low if low == high else (high - low) / math.log(high / low)
        rule, factor = self.limits.get("counts", "provider"), self.limits.get("count_factor", 1.0)
        if rule == "provider":
            rule = {"openai": "largest", "gemini": "prompt", "claude": "usage"}[self.provider]
        return (
            factor
            * {
                "largest": max(prompt, self.max_tokens),
                "prompt": prompt,
                "max_tokens": self.max_tokens,
                "both": prompt + self.max_tokens,
                "usage": prompt + self.output,
            }[rule]
        )

    @property
    def possible(self) -> float:
        """Calls a second that the server takes of all keys and models together, by the limit that binds; infinite without any."""
        share = self.limits.get("enforced", 1.0)
        of_models = self.limits.get("models", {})
        parts = [{**self.limits, **of_models[model]} for model in self.models] if of_models else [self.limits]
        return sum(self.keys * share * self._possible(part) for part in parts)

    def _possible(self, limits: Mapping[str, Any]) -> float:
        rates = [math.inf]
        if rpm := limits.get("rpm"):
            rates.append(rpm / 60)
        if tpm := limits.get("tpm"):
            rates.append(tpm / 60 / self.mean_tokens)
        if concurrent := limits.get("concurrent"):
            rates.append(concurrent / self.latency.mean)
        return min(rates)


@dataclass(slots=True)
class Call:
    """One call on its way. `booked` are the tokens that the client reserved for it."""

    model: str
    key: int
    prompt: int
    output: int
    max_tokens: int
    at: float = 0.0
    later: int = 0
    """Tokens that the server takes at the end."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 429: the limit that it is about, None where it doesn't say, the wait that it states, None where it states none, and what it names
    as refused."""

    about: LimitUnit | None
    stated: float | None
    named: Named = ""

    @property
    def failure(self) -> Failure:
        """The refusal as a plugin reads it."""
        window = None if self.about == "concurrent" else 60.0
        exceeded = None if self.about is None else StatedLimit(self.about, window=window, exceeded=True)
        return Failure(FailureKind.RATE_LIMIT, "rate_limit_exceeded", "", 429, self.stated, exceeded=exceeded)


@dataclass(frozen=True, slots=True)
class Seen:
    """A call as the server saw it: when it came and ended, for which key and model, what it was refused for (None: it was taken), the
    tokens taken for it when it came and when it ended, and the calls in flight with it."""

    at: float
    key: int
    model: str
    refused: str | None
    tokens: int
    in_flight: int
    ended: float
    later: int = 0


class Server:
    """A server that plays a scenario; `seen` are all calls that came."""

    def __init__(self, scenario: Scenario, now: float) -> None:
        self.scenario = scenario
        self.seen: list[Seen] = []
        self.in_flight = 0
        self._dice = random.Random(scenario.seed)
        self._flying: list[Call] = []
        self._pools = self._made(scenario, now)

    def _made(self, scenario: Scenario, now: float) -> list[Pool]:
        limits = Limits.model_validate(scenario.limits)
        return [Pool(limits, scenario.provider, now) for _ in range(scenario.keys)]

    def change(self, now: float, **limits: Any) -> None:
        """Enforces other limits from now on; calls in flight stay where they are."""
        self.scenario = self.scenario.with_limits(**limits)
        self._pools = self._made(self.scenario, now)
        for call in self._flying:
            if (slots := self._pools[call.key]._of(call.model).concurrent) is not None:
                slots.used += 1

    def arrive(self, call: Call, at: float) -> Refusal | float:
        """A call has come: the seconds that it takes, or why it is refused. `leave` ends one that was taken."""
        pool, scenario = self._pools[call.key], self.scenario
        own = {
            "openai": (max(call.max_tokens, call.prompt), 0),
            "gemini": (call.prompt, 0),
            "claude": (call.prompt, call.output),
        }[scenario.provider]
        at_arrival, later = pool.charge(own, call.prompt, call.output, call.max_tokens)
        if scenario.stray and self._dice.random() < scenario.stray:
            return self._refuse(call, at, "stray", None)
        denial = pool.admit(call.model, at_arrival, at, at)
        if denial is not None:
            pool.charge_refusal(call.model, at, scenario.provider == "openai")
            return self._refuse(call, at, denial.what, denial.stated)
        call.at, call.later = at, later
        self.in_flight += 1
        self._flying.append(call)
        seconds = scenario.latency.draw(self._dice, self.in_flight)
        self.seen.append(Seen(at, call.key, call.model, None, at_arrival, self.in_flight, at + seconds, later))
        return seconds

    def _refuse(self, call: Call, at: float, what: str, stated: float | None) -> Refusal:
        self.seen.append(Seen(at, call.key, call.model, what, 0, self.in_flight, at))
        if not self.scenario.names_limit or what == "stray":
            return Refusal(None, stated)
        unit: Any = "input_tokens" if (self.scenario.provider, what) == ("gemini", "tokens") else what
        return Refusal(unit, stated, NAMED.get((self.scenario.provider, what), "model"))

    def leave(self, call: Call, at: float) -> None:
        """A call that was taken ends."""
        self.in_flight -= 1
        self._flying.remove(call)
        self._pools[call.key].leave(call.model)
        if call.later:
            self._pools[call.key].charge_output(call.model, call.later, at)

    def stated(self, call: Call, at: float) -> list[StatedLimit]:
        """The limits that the headers of a reply state: none at Gemini."""
        if self.scenario.provider == "gemini":
            return []
        standing = self._pools[call.key].standing(call.model, at)
        units: dict[LimitUnit, Any] = {"requests": standing.requests, "tokens": standing.tokens}
        return [
            StatedLimit(unit, gauge.limit, gauge.remaining, gauge.reset, 60.0, gauge=unit)
            for unit, gauge in units.items()
            if gauge is not None
        ]

    # What came of it

    def between(self, begin: float, end: float, model: str | None = None) -> Result:
        """What the server took and refused between two times."""
        mine = [one for one in self.seen if begin <= one.at < end and model in (None, one.model)]
        taken = [one for one in mine if one.refused is None]
        return Result(len(taken), len(mine) - len(taken), sum(one.tokens + one.later for one in taken), end - begin)

    def share(self, begin: float, end: float) -> float:
        """The share of the limit that binds which was used between two times; with limits of its own for each model, the least of them.
        Without limits, calls a second."""
        of_models = self.scenario.limits.get("models", {})
        shares = []
        for model in self.scenario.models if of_models else (None,):
            limits = {**self.scenario.limits, **of_models.get(model, {})}
            shares.append(self._share(limits, self.between(begin, end, model), model, begin, end))
        return min(shares)

    def _share(self, limits: Mapping[str, Any], result: Result, model: str | None, begin: float, end: float) -> float:
        whole = self.scenario.keys * limits.get("enforced", 1.0) * result.seconds
        shares = []
        if rpm := limits.get("rpm"):
            shares.append(result.taken / (whole * rpm / 60))
        if tpm := limits.get("tpm"):
            shares.append(result.tokens / (whole * tpm / 60))
        if concurrent := limits.get("concurrent"):
            shares.append(result.taken * self.scenario.latency.mean / (whole * concurrent))
        return max(shares) if shares else result.taken / result.seconds


@dataclass(frozen=True, slots=True)
class Result:
    """Calls that were taken and refused, tokens that were taken, and the seconds that all that took."""

    taken: int
    refused: int
    tokens: int
    seconds: float

    @property
    def refused_share(self) -> float:
        return self.refused / max(1, self.taken + self.refused)


def drawn(seed: int, **fixed: Any) -> Scenario:
    """Returns a scenario that the seed decides; `fixed` fields and limits are as given.

    One or two kinds of limits bind, at 1 to 50 calls a second for each key; the configuration states nothing, too much, or exactly
    what is enforced.
    """
    dice = random.Random(seed)
    latency = Latency(
        mean=round(10 ** dice.uniform(-0.7, 0.9), 2),
        kind=dice.choice(("constant", "exponential", "lognormal")),
    )
    rate = 10 ** dice.uniform(0.0, 1.3)
    binds = dice.choice((("requests",), ("requests",), ("tokens",), ("concurrent",), ("requests", "tokens")))
    prompt = dice.choice(((100, 100), (20, 400), (10, 5000)))
    scenario = Scenario(
        {},
        latency=latency,
        keys=dice.choice((1, 1, 1, 2, 5)),
        workers=dice.choice((1, 2, 4, 8)),
        prompt=prompt,
        output=dice.randint(5, 60),
        max_tokens=60,
        stray=dice.choice((0.0, 0.0, 0.0, 0.001)),
        names_limit=dice.random() < 0.7,
        provider=dice.choice(("openai", "gemini", "claude")),
        seed=seed,
    )
    limits: dict[str, Any] = {
        "window": dice.choice(("bucket", "bucket", "bucket", "fixed", "sliding")),
        "burst_seconds": round(dice.uniform(0.5, 10.0), 1),
        "retry_after": dice.choice(("right", "right", "none", 0, 1, 30)),
        "headers": dice.choice(("right", "none", "wrong")),
        "refusals_count": dice.random() < 0.2,
    }
    configured: dict[Unit, int] = {}
    states = dice.choice((None, 1.0, 1.3, 2.0, 5.0))
    if "requests" in binds:
        limits["rpm"] = int(60 * rate)
        if states is not None:
            configured["requests"] = int(limits["rpm"] * states)
    if "tokens" in binds:
        limits["tpm"] = int(60 * rate * scenario.mean_tokens * (1.0 if len(binds) == 1 else dice.uniform(0.7, 1.4)))
        limits["tpm"] = max(limits["tpm"], 2 * prompt[1])
        if states is not None:
            configured["tokens"] = int(limits["tpm"] * states)
    if "concurrent" in binds:
        limits["concurrent"] = dice.randint(2, 60)
        if states is not None:
            configured["requests"] = int(60 * limits["concurrent"] / latency.mean * max(states, 2.0)) + 1
    known = {name: value for name, value in fixed.items() if name in Scenario.__dataclass_fields__}
    limits.update({name: value for name, value in fixed.items() if name not in known})
    scenario = replace(scenario, limits=limits, configured=configured, **known)
    return replace(scenario, concurrency=max(256, math.ceil(2 * min(scenario.possible, 500) * scenario.latency.mean)))
