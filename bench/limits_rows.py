"""The servers that `bench/limits.py` measures against, and what their keys are configured with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

OUTPUT_TOKENS = 40
DEFAULT_CONCURRENCY = 256
"""Calls in flight of a worker process where the configuration names none."""

Kind = Literal["right", "learn", "unlimited"]
"""How a run is judged: right: nothing may be learned, stricter bounds; learn; unlimited: beside the same run with `limits: fixed`."""


@dataclass(frozen=True)
class Row:
    """A server and what its keys are configured with. `enforced` are a sandbox account's settings, `sandbox` the server's own;
    `configured` the limits in the configuration, nothing where they are empty."""

    what: str
    enforced: dict[str, Any]
    configured: dict[str, Any] = field(default_factory=dict)
    kind: Kind = "learn"
    provider: str = "openai"
    keys: int = 1
    latency: float = 0.3
    sandbox: dict[str, Any] = field(default_factory=dict)
    concurrency: int | None = None
    """Of each worker process; None: the default, or more where the server's limit needs more calls in flight."""
    prompt_tokens: tuple[int, int] = (25, 200)
    spread: Literal["even", "log"] = "even"
    max_tokens: int = 60
    models: tuple[str, ...] = ("bench",)
    at_once: int | None = None
    """Calls at once that the server can do where it states no limit."""
    workers: tuple[int, ...] = (2,)
    """The numbers of worker processes that it is measured with by default."""

    @property
    def mean_tokens(self) -> float:
        """Tokens of a call as most servers charge them: prompt and max_tokens."""
        low, high = self.prompt_tokens
        mean = (low + high) / 2 if self.spread == "even" else (high - low) / math.log(high / low)
        return mean + self.max_tokens

    def limits_of(self, model: str) -> dict[str, Any]:
        """The limits that the server enforces for a model, with the ways of counting."""
        own = self.enforced.get("models", {}).get(model, {})
        return {**{name: value for name, value in self.enforced.items() if name != "models"}, **own}

    def rate(self, workers: int) -> float:
        """About the calls a second that all keys together take."""
        rates = [math.inf]
        of_models = [self.limits_of(model) for model in self.models]
        if all("rpm" in one for one in of_models):
            own = [one["rpm"] for one in of_models] if "models" in self.enforced else [of_models[0]["rpm"]]
            rates.append(self.keys * sum(own) / 60)
        if tpm := self.enforced.get("tpm"):
            rates.append(self.keys * tpm / 60 / self.mean_tokens)
        if concurrent := self.enforced.get("concurrent"):
            rates.append(self.keys * concurrent / self.latency)
        if self.at_once is not None:
            rates.append(self.at_once / self.latency)
        if min(rates) == math.inf:
            rates.append(workers * (self.concurrency or DEFAULT_CONCURRENCY) / self.latency)
        return min(rates) * self.enforced.get("enforced", 1.0)

    def concurrency_of(self, workers: int) -> int:
        """The calls in flight that a worker process is configured with: enough for the server's limit, by one worker less."""
        if self.concurrency is not None:
            return self.concurrency
        return max(DEFAULT_CONCURRENCY, math.ceil(1.5 * self.rate(workers) * self.latency / max(1, workers - 1)))


def limits(rpm: int | None = None, tpm: int | None = None) -> dict[str, Any]:
    named = {"limit_req_per_min": rpm, "limit_tokens_per_min": tpm}
    return {name: number for name, number in named.items() if number is not None}


ALL = (1, 2, 4, 8)
SHORT = (10, 45)  # tokens of a prompt, where 300 calls have to fit into 20,000 a minute

TABLE: dict[str, Row] = {
    "unconfigured": Row("300 RPM, Retry-After 1; nothing configured", {"rpm": 300, "retry_after": 1}, workers=ALL),
    "concurrent": Row(
        "8 calls at once, 1 s each; nothing configured",
        {"concurrent": 8, "retry_after": "none"},
        latency=1.0,
        workers=ALL,
    ),
    "concurrent-rpm": Row(
        "8 calls at once, 1 s each; 6,000 RPM configured",
        {"concurrent": 8, "retry_after": "none"},
        limits(6000),
        latency=1.0,
        workers=ALL,
    ),
    "half": Row("300 RPM, Retry-After right; 600 RPM configured", {"rpm": 300}, limits(600), workers=ALL),
    "half-zero": Row(
        "300 RPM, Retry-After 0; 600 RPM configured", {"rpm": 300, "retry_after": 0}, limits(600), workers=ALL
    ),
    "half-tokens": Row(
        "20,000 TPM by prompt + max_tokens; 40,000 TPM configured",
        {"tpm": 20_000, "counts": "both"},
        limits(tpm=40_000),
        prompt_tokens=SHORT,
        workers=ALL,
    ),
    "other-count": Row(
        "200,000 TPM × 2 keys by prompt + max_tokens; the same configured",
        {"tpm": 200_000, "counts": "both"},
        limits(tpm=200_000),
        keys=2,
        workers=ALL,
    ),
    "factor": Row(
        "20,000 TPM by 1.3 × the tokens, sliding minute; 20,000 TPM configured",
        {"tpm": 20_000, "counts": "usage", "count_factor": 1.3, "window": "sliding"},
        limits(tpm=20_000),
        prompt_tokens=SHORT,
        workers=ALL,
    ),
    "slow": Row(
        "60 s latency above 20 at once; concurrency 128",
        {},
        latency=1.0,
        sandbox={"load": {"above": 20, "latency": 60.0}},
        concurrency=128,
        at_once=20,
        workers=ALL,
    ),
}
"""The issue's own servers."""

RIGHT: dict[str, Row] = {
    "openai": Row(
        "600 RPM, 200,000 TPM × 2 keys, requests bind",
        {"rpm": 600, "tpm": 200_000},
        limits(600, 200_000),
        "right",
        keys=2,
        workers=ALL,
    ),
    "gemini": Row(
        "1,200 RPM, 30,000 TPM × 2 keys, input tokens bind",
        {"rpm": 1200, "tpm": 30_000},
        limits(1200, 30_000),
        "right",
        "gemini",
        keys=2,
        workers=ALL,
    ),
    "claude": Row(
        "600 RPM, 24,000 TPM × 2 keys, all tokens bind",
        {"rpm": 600, "tpm": 24_000},
        limits(600, 24_000),
        "right",
        "claude",
        keys=2,
        workers=ALL,
    ),
    "right-5keys": Row("300 RPM × 5 keys", {"rpm": 300}, limits(300), "right", keys=5),
    "right-20keys": Row("120 RPM × 20 keys", {"rpm": 120}, limits(120), "right", keys=20),
    "right-0.2s": Row("600 RPM, latency 0.2 s", {"rpm": 600}, limits(600), "right", latency=0.2),
    "right-5s": Row("600 RPM, latency 5 s", {"rpm": 600}, limits(600), "right", latency=5.0),
    "right-60s": Row("600 RPM, latency 60 s", {"rpm": 600}, limits(600), "right", latency=60.0),
    "right-mixed": Row(
        "4,000,000 TPM, prompts of 10 to 50,000 tokens",
        {"tpm": 4_000_000},
        limits(tpm=4_000_000),
        "right",
        prompt_tokens=(10, 50_000),
        spread="log",
    ),
    "right-3": Row("3 RPM", {"rpm": 3}, limits(3), "right"),
    "right-60": Row("60 RPM", {"rpm": 60}, limits(60), "right"),
    "right-3000": Row("3,000 RPM", {"rpm": 3000}, limits(3000), "right"),
    "right-3000-60s": Row("3,000 RPM, latency 60 s", {"rpm": 3000}, limits(3000), "right", latency=60.0),
    "right-fixed": Row("600 RPM, fixed minute", {"rpm": 600, "window": "fixed"}, limits(600), "right"),
    "right-sliding": Row("600 RPM, sliding minute", {"rpm": 600, "window": "sliding"}, limits(600), "right"),
    "right-no-headers": Row("600 RPM, no headers", {"rpm": 600, "headers": "none"}, limits(600), "right"),
    "right-wrong-headers": Row("600 RPM, headers claim twice", {"rpm": 600, "headers": "wrong"}, limits(600), "right"),
    "right-models": Row(
        "two models of 300 and 600 RPM on one key",
        {"models": {"large": {"rpm": 300}, "small": {"rpm": 600}}},
        {"models": {"large": limits(300), "small": limits(600)}},
        "right",
        models=("large", "small"),
    ),
}
"""Servers that count as the configuration states."""

LEARN: dict[str, Row] = {
    "5keys": Row("300 RPM × 5 keys; nothing configured", {"rpm": 300}, keys=5),
    "20keys": Row("120 RPM × 20 keys; nothing configured", {"rpm": 120}, keys=20),
    "0.2s": Row("300 RPM, latency 0.2 s; nothing configured", {"rpm": 300}, latency=0.2),
    "5s": Row("300 RPM, latency 5 s; nothing configured", {"rpm": 300}, latency=5.0),
    "60s": Row("300 RPM, latency 60 s; nothing configured", {"rpm": 300}, latency=60.0),
    "60s-half": Row("300 RPM, latency 60 s; 600 RPM configured", {"rpm": 300}, limits(600), latency=60.0),
    "concurrent-0.2s": Row("4 calls at once, 0.2 s each; nothing configured", {"concurrent": 4}, latency=0.2),
    "concurrent-5s": Row("40 calls at once, 5 s each; nothing configured", {"concurrent": 40}, latency=5.0),
    "concurrent-60s": Row("300 calls at once, 60 s each; nothing configured", {"concurrent": 300}, latency=60.0),
    "concurrent-5keys": Row("8 calls at once × 5 keys; nothing configured", {"concurrent": 8}, keys=5, latency=1.0),
    "mixed": Row(
        "4,000,000 TPM by prompt + max_tokens, prompts of 10 to 50,000 tokens; nothing configured",
        {"tpm": 4_000_000, "counts": "both"},
        prompt_tokens=(10, 50_000),
        spread="log",
    ),
    "mixed-half": Row(
        "4,000,000 TPM, prompts of 10 to 50,000 tokens; 8,000,000 TPM configured",
        {"tpm": 4_000_000},
        limits(tpm=8_000_000),
        prompt_tokens=(10, 50_000),
        spread="log",
    ),
    "3": Row("3 RPM; nothing configured", {"rpm": 3}),
    "3-half": Row("3 RPM; 6 RPM configured", {"rpm": 3}, limits(6)),
    "60": Row("60 RPM; nothing configured", {"rpm": 60}),
    "60-half": Row("60 RPM; 120 RPM configured", {"rpm": 60}, limits(120)),
    "3000": Row("3,000 RPM; nothing configured", {"rpm": 3000}),
    "3000-half": Row("3,000 RPM; 6,000 RPM configured", {"rpm": 3000}, limits(6000)),
    "3000-60s": Row("3,000 RPM, latency 60 s; nothing configured", {"rpm": 3000}, latency=60.0),
    "no-headers": Row(
        "300 RPM, no headers, no Retry-After; nothing configured",
        {"rpm": 300, "headers": "none", "retry_after": "none"},
    ),
    "no-headers-half": Row(
        "300 RPM, no headers, no Retry-After; 600 RPM configured",
        {"rpm": 300, "headers": "none", "retry_after": "none"},
        limits(600),
    ),
    "wrong-headers": Row("300 RPM, headers claim 600; nothing configured", {"rpm": 300, "headers": "wrong"}),
    "wrong-headers-half": Row(
        "300 RPM enforced of 600 RPM stated and configured", {"rpm": 600, "enforced": 0.5}, limits(600)
    ),
    "refusals-count": Row(
        "300 RPM, refused calls count, no headers; 600 RPM configured",
        {"rpm": 300, "refusals_count": True, "headers": "none"},
        limits(600),
    ),
    "models": Row(
        "two models of 300 and 600 RPM on one key; nothing configured",
        {"models": {"large": {"rpm": 300}, "small": {"rpm": 600}}},
        models=("large", "small"),
    ),
    "models-half": Row(
        "two models of 300 and 600 RPM on one key; 2,000 RPM configured",
        {"models": {"large": {"rpm": 300}, "small": {"rpm": 600}}},
        limits(2000),
        models=("large", "small"),
    ),
    "fixed": Row("300 RPM, fixed minute; nothing configured", {"rpm": 300, "window": "fixed"}),
    "fixed-half": Row("300 RPM, fixed minute; 600 RPM configured", {"rpm": 300, "window": "fixed"}, limits(600)),
    "fixed-no-headers": Row(
        "300 RPM, fixed minute, no headers; nothing configured", {"rpm": 300, "window": "fixed", "headers": "none"}
    ),
    "sliding": Row("300 RPM, sliding minute; nothing configured", {"rpm": 300, "window": "sliding"}),
    "sliding-half": Row("300 RPM, sliding minute; 600 RPM configured", {"rpm": 300, "window": "sliding"}, limits(600)),
    "tokens": Row("200,000 TPM; nothing configured", {"tpm": 200_000}),
    "claude-tokens": Row(
        "24,000 TPM × 2 keys, all tokens; nothing configured", {"tpm": 24_000}, provider="claude", keys=2
    ),
    "gemini-tokens": Row("30,000 TPM × 2 keys, input; nothing configured", {"tpm": 30_000}, provider="gemini", keys=2),
    "both": Row("300 RPM and 30,000 TPM; nothing configured", {"rpm": 300, "tpm": 30_000, "counts": "both"}),
    "slow-growth": Row(
        "each call above 20 at once adds 0.5 s to 1 s; concurrency 128",
        {},
        latency=1.0,
        sandbox={"load": {"above": 20, "growth": 0.5}},
        concurrency=128,
        at_once=20,
    ),
    "unlimited": Row("no limits; nothing configured", {}, kind="unlimited", latency=2.0, concurrency=32),
    "unlimited-0.2s": Row(
        "no limits, latency 0.2 s; nothing configured", {}, kind="unlimited", latency=0.2, concurrency=8
    ),
    "unlimited-60s": Row("no limits, latency 60 s; nothing configured", {}, kind="unlimited", latency=60.0),
    "unlimited-jitter": Row(
        "no limits, latencies of 0.2 to 20 s; nothing configured",
        {},
        kind="unlimited",
        latency=2.0,
        sandbox={"jitter": 0.8},
        concurrency=32,
    ),
    "unlimited-growing": Row(
        "no limits, latency of 1 s grows by 10 ms a call in flight; nothing configured",
        {},
        kind="unlimited",
        latency=1.0,
        sandbox={"load": {"above": 0, "growth": 0.01}},
        concurrency=32,
    ),
}
"""Servers that differ from the configuration in further ways."""

HEAVY: dict[str, Row] = {
    "right-3000-20keys": Row("3,000 RPM × 20 keys", {"rpm": 3000}, limits(3000), "right", keys=20, workers=(4,)),
    "3000-20keys": Row("3,000 RPM × 20 keys; nothing configured", {"rpm": 3000}, keys=20, workers=(4,)),
}
"""1,000 calls a second take about 0.6 processors for the sandbox and 1.5 to 3 for the workers: measured only when they are named."""

GROUPS = {"table": TABLE, "right": RIGHT, "learn": LEARN, "heavy": HEAVY}
ROWS = {**TABLE, **RIGHT, **LEARN, **HEAVY}
DEFAULT_ROWS = [*TABLE, *RIGHT, *LEARN]
