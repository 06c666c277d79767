"""What an input will take before anything is sent: tokens, money and time, by what the lines say, the prices and the limits.

It makes no call and needs no server. Tokens are guessed from characters; a batch that has run already (a pilot) is a better guide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from models.config import Config, Pricing, ProviderConfig
from models.formats.lines import Line
from models.guesses import asked_fees, asked_tier, input_tokens, output_bound
from models.lanes import Lanes
from models.prices import Cost, price
from models.request import Usage
from models.store.ledger import Spent
from submit import caps
from submit.batch_options import BatchOptions
from submit.source import Source

ASSUMED_OUTPUT_TOKENS = 300
"""What an answer is taken for where nothing tells: neither a pilot, nor `default_output_tokens`, nor a smaller bound."""


@dataclass(frozen=True, slots=True)
class Average:
    """What one answered line took in a pilot, failed calls for it included in the cost (nano-units; None: unpriced)."""

    input_tokens: float
    output_tokens: float
    cost_nanos: float | None
    currency: str


@dataclass(slots=True)
class Group:
    """The lines for one provider and model. `most_output_tokens` counts the bounds of those that have one; `unbounded` have none."""

    provider: str
    model: str
    lines: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    most_output_tokens: int = 0
    unbounded: int = 0
    measured: bool = False
    cost: Cost | None = None
    most_cost: Cost | None = None
    by_key: list[Sums] = field(default_factory=list, repr=False)


@dataclass(slots=True)
class Sums:
    """What all lines would cost on one key: as guessed, and at their bounds; None once a line has no price. In nano-units."""

    pricing: Pricing | None
    usual: int | None = 0
    most: int | None = 0

    def add(self, usual: Usage, most: Usage) -> None:
        """Each line is priced by itself: what a long input costs is no matter of their sum."""
        likely, bound = price(usual, self.pricing), price(most, self.pricing)
        self.usual = None if self.usual is None or likely is None else self.usual + likely.nanos
        self.most = None if self.most is None or bound is None else self.most + bound.nanos

    def cost(self, nanos: int | None) -> Cost | None:
        return None if nanos is None or self.pricing is None else Cost(nanos, self.pricing.currency)


@dataclass(slots=True)
class Forecast:
    """Groups in the order of the input; `seconds` by provider, at the speed that its limits allow (None: it has none). `days` are the
    whole days' quotas that a provider's lines take, where it has limits by day."""

    groups: list[Group] = field(default_factory=list)
    seconds: dict[str, float | None] = field(default_factory=dict)
    days: dict[str, float] = field(default_factory=dict)
    routed: set[str] = field(default_factory=set)

    @property
    def lines(self) -> int:
        return sum(group.lines for group in self.groups)

    @property
    def slowest(self) -> float | None:
        """Providers work at the same time, so the slowest of them decides. None: no limit does."""
        return max((seconds for seconds in self.seconds.values() if seconds is not None), default=None)


def averages(spent: Sequence[Spent]) -> dict[tuple[str, str], Average]:
    """A pilot's averages from `ledger.spent` by provider and model; models that answered nothing are left out."""
    found: dict[tuple[str, str], Average] = {}
    for row in spent:
        if row.succeeded:
            provider, model = row.group
            priced = bool(row.currency) and not row.unpriced_calls
            found[provider, model] = Average(
                row.input_tokens / row.succeeded,
                row.output_tokens / row.succeeded,
                row.cost_nanos / row.succeeded if priced else None,
                row.currency,
            )
    return found


def forecast(
    source: Source,
    config: Config,
    options: BatchOptions,
    known: Mapping[tuple[str, str], Average] | None = None,
) -> Forecast:
    """Reads an input that has been checked. Lines on a route count for its first candidate."""
    groups: dict[tuple[str, str], Group] = {}
    found = Forecast()
    with source.open() as (stream, _):
        for line in options.lines(stream, Lanes(config)):
            if not isinstance(line, Line) or line.refused is not None:
                continue
            provider, model = line.lane, line.model
            if line.lane in config.routes:
                found.routed.add(line.lane)
                provider, model = config.routes[line.lane].pairs()[0]
            group = groups.get((provider, model))
            if group is None:
                group = groups[provider, model] = Group(provider, model, by_key=_sums(config.provider(provider), model))
            _count(group, line, config.provider(provider), (known or {}).get((provider, model)))
    found.groups = list(groups.values())
    for group in found.groups:
        _price(group, (known or {}).get((group.provider, group.model)))
    for name in dict.fromkeys(group.provider for group in found.groups):
        groups_of = [group for group in found.groups if group.provider == name]
        found.seconds[name] = _seconds(config.provider(name), groups_of)
        if (days := _longest(config.provider(name), groups_of, "_per_day")) is not None:
            found.days[name] = days
    return found


def _count(group: Group, line: Line, provider: ProviderConfig, average: Average | None) -> None:
    asked = caps.asked(line)
    bound = output_bound(asked) or caps.longest_output(provider, group.model)
    guess = provider.default_output_tokens or ASSUMED_OUTPUT_TOKENS
    given, made = input_tokens(asked), guess if bound is None else min(guess, bound)
    if average is not None:
        given, made = round(average.input_tokens), round(average.output_tokens)
    group.lines += 1
    group.unbounded += bound is None
    group.most_output_tokens += bound or 0
    group.measured = average is not None  # then its tokens are counted once for all its lines, in _price
    group.input_tokens += given
    group.output_tokens += made
    usual = Usage(given, made, tier=asked_tier(asked), fees=asked_fees(asked))
    for sums in group.by_key:
        sums.add(usual, replace(usual, output_tokens=max(made, bound or 0)))


def _price(group: Group, average: Average | None) -> None:
    if average is not None:
        group.input_tokens = round(average.input_tokens * group.lines)
        group.output_tokens = round(average.output_tokens * group.lines)
    likely = [sums.cost(sums.usual) for sums in group.by_key]
    group.cost = min((cost for cost in likely if cost is not None), key=lambda cost: cost.nanos, default=None)
    if average is not None and average.cost_nanos is not None:
        group.cost = Cost(round(average.cost_nanos * group.lines), average.currency)
    if group.unbounded or group.cost is None:
        return
    bounds = [sums.cost(sums.most) for sums in group.by_key]
    priced = [cost for cost in bounds if cost is not None and cost.currency == group.cost.currency]
    if priced:
        group.most_cost = max([*priced, group.cost], key=lambda cost: cost.nanos)


def _sums(provider: ProviderConfig, model: str) -> list[Sums]:
    return [Sums(provider.pricing(key, model)) for key in provider.keys]


def _seconds(provider: ProviderConfig, groups: Sequence[Group]) -> float | None:
    """How long the limits alone make these groups take, with all keys at once. What fits into one day's quota may all run today."""
    minutes, days = _longest(provider, groups, "_per_min"), _longest(provider, groups, "_per_day")
    if days is not None and days > 1:
        return max(days * 86_400.0, (minutes or 0.0) * 60.0)
    return None if minutes is None else minutes * 60.0


def _longest(provider: ProviderConfig, groups: Sequence[Group], span: str) -> float | None:
    """Returns the minutes or days that the limits with this ending make these groups take; None if there are none."""
    whole = _spans(_capacity(provider, None, span), provider, groups)
    single = [_spans(_capacity(provider, group.model, span), provider, [group]) for group in groups]
    return max((each for each in (whole, *single) if each is not None), default=None)


def _spans(capacity: Mapping[str, float], provider: ProviderConfig, groups: Sequence[Group]) -> float | None:
    going_in = sum(group.input_tokens for group in groups)
    coming_out = sum(group.output_tokens for group in groups)
    # what a limit of tokens counts is the dialect's own rule: OpenAI books the bounds, Gemini only what goes in
    booked = {"gemini": going_in}.get(provider.type, going_in + coming_out)
    if provider.type == "openai":
        booked = going_in + sum(max(group.output_tokens, group.most_output_tokens) for group in groups)
    taken = {
        "limit_req_per_min": sum(group.lines for group in groups),
        "limit_tokens_per_min": booked,
        "limit_input_tokens_per_min": going_in,
        "limit_output_tokens_per_min": coming_out,
        "limit_req_per_day": sum(group.lines for group in groups),
        "limit_tokens_per_day": booked,
    }
    return max((taken[name] / limit for name, limit in capacity.items()), default=None)


def _capacity(provider: ProviderConfig, model: str | None, span: str) -> dict[str, float]:
    """The provider's limits with this ending over all quotas: of its keys, or (model) those that hold for one model. Keys of one pool
    share theirs; a limit that one quota doesn't have is none."""
    pools: dict[str, dict[str, float]] = {}
    for key in provider.keys:
        if span == "_per_day":
            limits = key.day_limits() if model is None else provider.model_day_limits(key, model)
        else:
            limits = key.limits() if model is None else provider.model_limits(key, model)
        mine = pools.setdefault(key.pool or f"{provider.id}/{key.id}", {})
        for name, limit in limits.items():
            mine[name] = min(mine.get(name, limit), limit * key.use)
    shared = set.intersection(*(set(limits) for limits in pools.values()))
    return {name: sum(limits[name] for limits in pools.values()) for name in shared}
