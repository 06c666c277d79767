"""States how exact a cap on a batch's cost can be, before anything is sent: by the bounds of its lines and of its models.

It reads no input and holds no cap; `models.store.budgets` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from models.config import Config, ProviderConfig
from models.formats.lines import Line
from models.formats.simple import simple_input
from models.guesses import COLD_OUTPUT_TOKENS, output_bound
from models.money import format_money
from models.prices import Cost, price
from models.request import EMBEDDINGS, SIMPLE, Usage
from models.store.budgets import ANSWERS_A_CALL, FIRST_CALLS, FIRST_MODELS
from models.wording import counted

FIRST = f"the first calls ({FIRST_CALLS}, or one each of up to {FIRST_MODELS} models)"
LATER = f"A server that turns dear later exceeds it by {FIRST_CALLS} calls, and one more for {ANSWERS_A_CALL} answers before"


def asked(line: Line) -> Any:
    """Returns a line's request, decoded."""
    return simple_input(line.body) if line.dialect == SIMPLE else orjson.loads(line.body)


def is_unbounded(line: Line) -> bool:
    """Returns whether a line asks for text without a bound of its own on it."""
    return line.operation != EMBEDDINGS and output_bound(asked(line)) is None


def longest_output(provider: ProviderConfig, model: str) -> int | None:
    """Returns the bound of requests that have none of their own: what the configuration gives as the most on all keys, or what the
    dialect fills in."""
    if provider.type == "claude" and provider.max_tokens:
        return provider.max_tokens
    most = [provider.max_output_tokens(key, model) for key in provider.keys]
    known = [tokens for tokens in most if tokens is not None]
    return max(known) if known and len(known) == len(most) else None


def exactness(config: Config, unbounded: Mapping[tuple[str, str], int]) -> str:
    """Returns a sentence on how far a batch may exceed its cap. `unbounded` counts its lines without a bound, by lane and model."""
    known = {provider.id: provider for provider in config.providers}
    lines = 0
    open_ended: dict[tuple[str, str], None] = {}
    for (lane, model), number in unbounded.items():
        pairs = config.routes[lane].pairs() if lane in config.routes else ((lane, model),)
        without = [
            (name, of) for name, of in pairs if name in known and longest_output(known[name], of or model) is None
        ]
        lines += number if without else 0
        open_ended.update(dict.fromkeys(without))
    if not lines:
        return (
            f"the cap can be exceeded only by what {FIRST} cost more than estimated: where the server adds input of its own, or "
            f"ignores the bound on the output. Their answers correct the estimates of all later calls. {LATER}"
        )
    names = [f"{name}/{model}" for name, model in open_ended]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
    excesses = [_excess(known[name], model) for name, model in open_ended]
    most = "" if None in excesses else _at_most([cost for cost in excesses if cost is not None])
    guess = min(_guess(known[name]) for name, _ in open_ended)
    return (
        f"{counted(lines, 'line')} {'has' if lines == 1 else 'have'} no max_tokens, and the longest output of {shown} isn't configured: "
        f"the cap may be exceeded by what {FIRST} cost beyond {guess:,} output tokens each{most}. Set max_tokens on the "
        f"lines, or max_output_tokens of the model in the configuration, to avoid that. {LATER}"
    )


def _excess(provider: ProviderConfig, model: str) -> Cost | None:
    """Returns what a call of a model can cost beyond its estimate if it fills its context window; None where that isn't known."""
    settings = provider.models.get(model)
    if settings is None or settings.context_window is None:
        return None
    longer = Usage(0, max(0, settings.context_window - _guess(provider)))
    costs = [price(longer, provider.pricing(key, model)) for key in provider.keys]
    priced = [cost for cost in costs if cost is not None]
    return max(priced, key=lambda cost: cost.nanos) if priced and len(priced) == len(costs) else None


def _guess(provider: ProviderConfig) -> int:
    return provider.default_output_tokens or COLD_OUTPUT_TOKENS


def _at_most(costs: list[Cost]) -> str:
    if len({cost.currency for cost in costs}) != 1:
        return ""
    dearest = sorted((cost.nanos for cost in costs), reverse=True)
    # one model may take all of the first calls, and then each other has one
    total = dearest[0] * FIRST_CALLS + sum(dearest[1 : FIRST_MODELS - FIRST_CALLS + 1])
    return f", at most {format_money(total, costs[0].currency)}"
