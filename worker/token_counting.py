"""Finds out how a server counts tokens, by model, from what its replies state, so that a call books what the server charges.

It needs no header of any vendor: it is given `StatedLimit`s. Three kinds of evidence:

* the charge that a reply states for its call (`requested`): a refusal's "Requested 385", Mistral's query cost;
* the drop of what remains of a limit from one call to the next on the same pool. Between two sends in a row that is the second call's charge,
  less what came back in the time between, plus the output of calls that ended in it;
* the real usage of the calls.

For each basis that a server may count by, the charges are fitted as a factor times the basis: by the median of ratios, and by least squares with the
rate of refill free, because other workers take from the same limit. The basis with the smallest error is taken once it explains the
charges clearly better than the provider's own rule, and kept until another is as clearly better. Where nothing drops, as where headers are
made up, no basis fits, and nothing is concluded.
"""

from __future__ import annotations

import logging
import math
import statistics
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from models.request import StatedLimit

log = logging.getLogger("truckllm.counting")

Basis = Literal["own", "usage", "both", "larger", "max_tokens", "input", "both_characters", "larger_characters"]
BASES: tuple[Basis, ...] = get_args(Basis)
"""What a server may count: as the provider's plugin says; real input and output; input + max_tokens; the larger of the two; max_tokens
alone; input alone; the last but two again with characters / 4 for the input. Where two fit alike, the earlier one is taken."""
_RESERVES = ("both", "larger", "max_tokens", "both_characters", "larger_characters")
"""Charged when the call arrives, for what it may write: nothing of it comes back."""
_WORDS: dict[Basis, str] = {
    "own": "as its dialect does",
    "usage": "input + output",
    "both": "input + max_tokens",
    "larger": "the larger of input and max_tokens",
    "max_tokens": "max_tokens",
    "input": "the input",
    "both_characters": "characters / 4 + max_tokens",
    "larger_characters": "the larger of characters / 4 and max_tokens",
}
LEAST_FACTOR, LARGEST_FACTOR = 0.5, 3.0
UNMOVED = 0.03
"""A factor so near to 1 is 1: estimates of the input are no better."""
CHARACTERS_A_TOKEN = 4
STATED, DROPS = 64, 512
"""Observations of each kind that are kept for a model."""
OLDEST_SECONDS = 600.0
FEWEST_STATED, FEWEST_DROPS = 5, 24
RARE: dict[Basis, float] = {"both_characters": 4.0, "larger_characters": 4.0}
"""Ways to count by which few servers are known to go have to be so much more likely."""
EQUAL = 1.0
MARGIN = 8.0
"""By so much the logarithm of the likelihood must be better before another basis is taken: e^8 to 1."""
MARGIN_DOWN, FEWEST_DOWN = 20.0, 40
"""The same, and so many observations, where calls would be booked as less than the provider's rule says."""
ALIKE = 0.03
"""Quotients of charges that differ by so much from the middle agree."""
FEWEST_ALIKE = 12
MOVES = 0.1
"""The median change of what remains, as a share of a charge, below which it says nothing."""
CLEAR, AGREE = 3.0, 0.5
"""So many times as many agree as at the sides of them, and at least such a share of all: where other workers send as much, none do."""
BELOW = 0.3
"""No larger share of the quotients is smaller than those that agree: what others send only adds to a drop."""
RELIABLE = 0.1
"""The largest standard error of a factor, as a share of it."""
REFUSALS_UP, REFUSED_SECONDS, DISTRUST_SECONDS = 3, 60.0, 600.0
"""So many refusals for tokens in so many seconds end a rule that books less than the provider's, for so long."""
MOST_MODELS = 1024
MOST_UNDER_WAY = 512
SAME_MOMENT = 0.002
"""Calls that are sent within so many seconds may arrive in another order."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a server counts: `factor` times the basis."""

    basis: Basis = "own"
    factor: float = 1.0

    def __str__(self) -> str:
        return _WORDS[self.basis] + ("" if self.factor == 1 else f", times {self.factor:.2f}")

    def to_dict(self) -> dict[str, Any]:
        return {"basis": self.basis, "factor": self.factor}

    @classmethod
    def from_dict(cls, value: Any) -> Rule | None:
        """The rule that `to_dict` wrote; None for anything else."""
        if not isinstance(value, Mapping) or value.get("basis") not in BASES:
            return None
        factor = value.get("factor")
        if not isinstance(factor, int | float) or not LEAST_FACTOR <= factor <= LARGEST_FACTOR:
            return None
        return cls(value["basis"], float(factor))

    @property
    def reserves(self) -> bool:
        """True if nothing of a booking comes back."""
        return self.basis in _RESERVES

    def tokens(self, sizes: Sizes) -> int:
        """The charge of a call."""
        return math.ceil(round(self.factor * _bases(sizes)[BASES.index(self.basis)], 6))


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a call holds: tokens that the provider's own rule books, tokens that go in and come out (estimated or real), its bound on the output (that
    estimate where it has none), characters of text."""

    own: int
    input: int
    output: int
    bound: int
    characters: int


@dataclass(eq=False, slots=True)
class Sent:
    """A call under way, as `TokenCounting.sent` gave it out."""

    pool: str
    model: str
    at: float
    sizes: Sizes
    done: bool = False
    charged: bool = False
    remaining: float | None = None
    limit: float = math.inf
    refill: float = 0.0


def _bases(sizes: Sizes) -> tuple[float, ...]:
    """The charges by each of BASES, with factor 1."""
    size, going_in, bound = sizes.characters / CHARACTERS_A_TOKEN, sizes.input, sizes.bound
    return (
        sizes.own,
        going_in + sizes.output,
        going_in + bound,
        max(going_in, bound),
        bound,
        going_in,
        size + bound,
        max(size, bound),
    )


@dataclass(frozen=True, slots=True)
class _Stated:
    """A charge that a reply stated, and what each basis makes of its call."""

    at: float
    charge: float
    bases: tuple[float, ...]
    sizes: Sizes


@dataclass(frozen=True, slots=True)
class _Drop:
    """What remained changed by `change` in `seconds`, in which calls were charged `bases`; `refill` is the stated limit by the second."""

    at: float
    seconds: float
    change: float
    refill: float
    bases: tuple[float, ...]
    sizes: Sizes
    at_end: float
    """The tokens of calls that ended in that time: for servers that count when a call is over."""


@dataclass(frozen=True, slots=True)
class _Fit:
    """A factor, its standard error, and the logarithm of the likelihood (but for what is the same for all bases)."""

    factor: float
    error: float
    likelihood: float

    @property
    def sound(self) -> bool:
        return LEAST_FACTOR <= self.factor <= LARGEST_FACTOR and self.error <= RELIABLE * self.factor


@dataclass(slots=True)
class _Model:
    """What is known of one model."""

    rule: Rule = field(default_factory=Rule)
    found: bool = False
    """Found out here, not taken over."""
    unsaved: bool = False
    stated: deque[_Stated] = field(default_factory=lambda: deque(maxlen=STATED))
    drops: deque[_Drop] = field(default_factory=lambda: deque(maxlen=DROPS))
    fresh: int = 0
    refused: deque[float] = field(default_factory=lambda: deque(maxlen=REFUSALS_UP))
    distrusted_until: float = float("-inf")


class TokenCounting:
    """How one provider's server counts, by model, as far as this process has found out. Times are seconds of one monotonic clock."""

    def __init__(self, provider: str = "") -> None:
        self._provider = provider
        self._models: dict[str, _Model] = {}
        self._under_way: dict[str, deque[Sent]] = {}
        self._ended: dict[str, deque[tuple[float, str, int, int]]] = {}  # by pool: when, model, input, output

    # What was found

    def rule(self, model: str) -> Rule:
        """The rule for a model; `own` where nothing else has been found."""
        known = self._models.get(model)
        return _OWN if known is None else known.rule

    def to_dict(self) -> dict[str, Any]:
        """The rules that differ from the provider's own, by model, to be kept."""
        return {name: one.rule.to_dict() for name, one in self._models.items() if one.rule != _OWN}

    def from_dict(self, kept: Any) -> None:
        """Takes over rules that `to_dict` wrote, of models of which nothing is known here. What is malformed is left out."""
        for model, value in kept.items() if isinstance(kept, Mapping) else ():
            rule = Rule.from_dict(value)
            if rule is not None and isinstance(model, str) and self.rule(model) == _OWN:
                self._model(model).rule = rule

    def adopt(self, model: str, rule: Rule | None) -> None:
        """Takes over a rule that another process has found, unless this one knows better."""
        known = self._models.get(model)
        if rule is None or (known is not None and (known.found or known.distrusted_until > float("-inf"))):
            return
        if self.rule(model) != rule:
            self._model(model).rule = rule

    def unsaved(self) -> dict[str, Rule]:
        """The rules that were found here, by model, since they were last `saved`."""
        return {name: one.rule for name, one in self._models.items() if one.unsaved}

    def saved(self, rules: Mapping[str, Rule]) -> None:
        """Takes in that these rules have been stored."""
        for model, rule in rules.items():
            known = self._models.get(model)
            if known is not None and known.rule == rule:
                known.unsaved = False

    def forget(self, model: str | None = None) -> None:
        """Forgets what was found of a model, or of all."""
        for name in [model] if model is not None else list(self._models):
            self._models.pop(name, None)

    # Evidence

    def sent(self, pool: str, model: str, sizes: Sizes, at: float) -> Sent:
        """Takes in a call that is sent now. Each has to be `ended`, in whatever way it ends."""
        one = Sent(pool, model, at, sizes)
        series = self._under_way.setdefault(pool, deque())
        if series and series[-1].at > at:  # never sort for microseconds
            one.at = series[-1].at
        series.append(one)
        if len(series) > MOST_UNDER_WAY:
            series.popleft()
        return one

    def ended(
        self,
        one: Sent,
        at: float,
        limits: Sequence[StatedLimit] = (),
        *,
        refused: bool = False,
        usage: tuple[int, int] | None = None,
    ) -> None:
        """Takes in what came of a call: the `limits` of its reply, whether it was refused for a limit, and its real tokens (in, out)."""
        one.done = True
        if usage is not None:
            going_in, coming_out = usage
            one.sizes = Sizes(one.sizes.own, going_in, coming_out, one.sizes.bound, one.sizes.characters)
            ended = self._ended.setdefault(one.pool, deque(maxlen=4 * MOST_UNDER_WAY))
            ended.append((at, one.model, going_in, coming_out))
        one.charged = not refused and usage is not None
        if refused or usage is not None:
            gauge = _gauge(limits)
            if gauge is not None:
                one.remaining, one.limit = gauge.remaining, gauge.limit or math.inf
                one.refill = (gauge.limit or 0.0) / (gauge.window or 60.0)
        self._charge_stated(one, at, limits, refused=refused)
        if refused:
            self._refused(one.model, at, limits)
        self._drops(one.pool, at)
        known = self._models.get(one.model)
        if known is not None and known.fresh >= max(FEWEST_STATED, min(len(known.drops) // 4, 64)):
            known.fresh = 0
            self._conclude(one.model, known, at)

    def _model(self, model: str) -> _Model:
        known = self._models.pop(model, None) or _Model()
        self._models[model] = known  # as the last in its order, so that the first was used least lately
        if len(self._models) > MOST_MODELS:
            del self._models[next(iter(self._models))]
        return known

    def _charge_stated(self, one: Sent, at: float, limits: Iterable[StatedLimit], *, refused: bool) -> None:
        charge = next(
            (limit.requested for limit in limits if limit.unit == "tokens" and (limit.requested or 0) > 1), None
        )
        if charge is None:
            return
        sizes = one.sizes
        bases = list(_bases(sizes))
        if refused:  # stated before anything was written; what is charged for that in the end is another matter
            bases[BASES.index("usage")] = sizes.input
        known = self._model(one.model)
        known.stated.append(_Stated(at, charge, tuple(bases), sizes))
        known.fresh += 2

    def _refused(self, model: str, at: float, limits: Iterable[StatedLimit]) -> None:
        """A refusal for tokens: a rule that books less than the provider's may be the reason."""
        known = self._models.get(model)
        if known is None or not any(one.exceeded and one.unit == "tokens" for one in limits):
            return
        known.refused.append(at)
        several = len(known.refused) == REFUSALS_UP and at - known.refused[0] <= REFUSED_SECONDS
        if several and known.rule != _OWN and self._lowers(known, known.rule):
            log.info("%s, model %s: calls are refused for tokens; counted as its dialect does", self._provider, model)
            known.rule, known.distrusted_until = _OWN, at + DISTRUST_SECONDS
            known.found = known.unsaved = True

    def _drops(self, pool: str, now: float) -> None:
        """Takes what calls in a row have left of the limit: two that have both ended, from the oldest on."""
        series = self._under_way[pool]
        ended = self._ended.get(pool, deque())
        while len(series) >= 2 and series[0].done and series[1].done:
            first, second = series[0], series[1]
            series.popleft()
            before = after = 0
            while ended and ended[0][0] <= second.at:
                at, model, going_in, coming_out = ended.popleft()
                if at > first.at and model == second.model:
                    before, after = before + coming_out, after + going_in + coming_out
            if (
                first.remaining is None
                or second.remaining is None
                or first.model != second.model
                or second.at - first.at < SAME_MOMENT
                or (len(series) > 1 and series[1].at - second.at < SAME_MOMENT)
                or min(first.remaining, second.remaining) <= 0  # it may be in debt
                or max(first.remaining, second.remaining) >= second.limit  # full: nothing was taken from it
                or first.remaining
                == second.remaining  # a gauge that stands still, more likely than a charge that just came back
            ):
                continue
            bases = list(_bases(second.sizes)) if second.charged else [0.0] * len(BASES)
            bases[BASES.index("usage")] = (second.sizes.input if second.charged else 0) + before
            known = self._model(second.model)
            known.drops.append(
                _Drop(
                    now,
                    second.at - first.at,
                    second.remaining - first.remaining,
                    second.refill,
                    tuple(bases),
                    second.sizes,
                    float(after),
                )
            )
            known.fresh += 1

    # Conclusions

    def _conclude(self, model: str, known: _Model, now: float) -> None:
        for kept in (known.stated, known.drops):
            while kept and now - kept[0].at > OLDEST_SECONDS:
                kept.popleft()
        found = self._best(known, now)
        if found is not None and found != known.rule:
            if (found.basis, known.rule.basis) != ("own", "own") or abs(found.factor - known.rule.factor) > UNMOVED:
                log.info("%s, model %s: the server counts %s", self._provider, model, found)
            known.rule = found
            known.found = known.unsaved = True

    def _best(self, known: _Model, now: float) -> Rule | None:
        """The rule that explains the charges best, where the evidence is enough; None where the present one stays."""
        of_stated = _fit_stated(known.stated) if len(known.stated) >= FEWEST_STATED else None
        of_drops = _fit_drops(known.drops) if len(known.drops) >= FEWEST_DROPS else None
        if of_drops is not None and not any(one is not None and one.sound for one in of_drops):
            of_drops = None  # what remains says nothing of the charges
        fits: dict[Basis, tuple[float, _Fit]] = {}
        for place, basis in enumerate(BASES):
            found = [one[place] for one in (of_stated, of_drops) if one is not None]
            sound = [one for one in found if one is not None and one.sound]
            if found and len(sound) == len(found):
                fits[basis] = sum(one.likelihood for one in sound) - RARE.get(basis, 0.0), sound[0]
        if not fits:
            return None
        best = max(fits, key=lambda basis: fits[basis][0])
        present = known.rule.basis
        # The provider's own rule stays while nothing is clearly better, and the present one while it isn't clearly worse. Else the first of
        # those that are as good as the best.
        stays = [one for one in (present, "own") if one in fits and (one != "own" or _factor(fits["own"][1]) == 1)]
        near = [one for one in stays if fits[best][0] - fits[one][0] <= MARGIN]
        near += [one for one in BASES if one in fits and fits[best][0] - fits[one][0] <= EQUAL]
        rule = Rule(near[0], _factor(fits[near[0]][1]))
        if self._alike(known, rule, as_own := Rule("own", rule.factor)):
            rule = as_own
        if rule.basis == present and abs(rule.factor - known.rule.factor) <= UNMOVED:
            return None
        if self._lowers(known, rule):
            many = len(known.stated) + len(known.drops) >= FEWEST_DOWN
            clear = "own" not in fits or fits[rule.basis][0] - fits["own"][0] >= MARGIN_DOWN or rule.basis == "own"
            if not many or not clear or now < known.distrusted_until:
                return None
        return rule

    def _alike(self, known: _Model, one: Rule, other: Rule) -> bool:
        """True if both rules charge the calls that were seen alike: estimates are what sets them apart."""
        seen: list[_Stated | _Drop] = [*known.stated, *known.drops]
        pairs = [(one.tokens(call.sizes), other.tokens(call.sizes)) for call in seen]
        return sum(abs(a - b) for a, b in pairs) <= UNMOVED * sum(a for a, _ in pairs)

    def _lowers(self, known: _Model, rule: Rule) -> bool:
        """True if the rule books calls as less than the provider's own."""
        seen: list[_Stated | _Drop] = [*known.stated, *known.drops]
        return sum(rule.tokens(one.sizes) for one in seen) < (1 - UNMOVED) * sum(one.sizes.own for one in seen)


_OWN = Rule()


def _gauge(limits: Sequence[StatedLimit]) -> StatedLimit | None:
    """The limit of a minute's tokens, of which what remains is followed."""
    found = [one for one in limits if one.unit == "tokens" and one.remaining is not None and one.window in (60.0, 1.0)]
    return next((one for one in found if one.gauge == "tokens"), found[0] if found else None)


def _factor(fit: _Fit) -> float:
    """The factor to book by: never less than the evidence allows."""
    return (
        1.0 if abs(fit.factor - 1) <= max(UNMOVED, fit.error) else min(LARGEST_FACTOR, round(fit.factor + fit.error, 3))
    )


def _fit_stated(stated: Sequence[_Stated]) -> list[_Fit | None]:
    """Fits stated charges as a factor times each basis, by the median of the ratios."""
    fits: list[_Fit | None] = []
    for place in range(len(BASES)):
        ratios = [one.charge / one.bases[place] for one in stated if one.bases[place] > 0]
        if len(ratios) < len(stated):  # a basis that is nothing explains no charge
            fits.append(None)
            continue
        factor = statistics.median(ratios)
        # stated charges are exact: a single one that doesn't fit counts
        spread = max(UNMOVED / 2, 1.25 * statistics.fmean(min(abs(ratio / factor - 1), 1.0) for ratio in ratios))
        count = len(ratios)
        fits.append(_Fit(factor, 1.25 * factor * spread / math.sqrt(count), -count * math.log(spread)))
    return fits


def _fit_drops(drops: Sequence[_Drop]) -> list[_Fit | None]:
    """Fits what remains, at the stated limit's rate of refill, or at none, as in a minute that begins anew. Of `usage` the better one of both
    ways to count it: the output when a call ends, or all of it."""
    # Calls are paced by what they book: where the gauge hardly moves, time alone would look like a charge.
    if statistics.median(abs(one.change) for one in drops) < MOVES * statistics.median(one.bases[0] for one in drops):
        return [None] * len(BASES)
    choices = []
    for share in (1.0, 0.0):
        taken = [share * one.refill * one.seconds - one.change for one in drops]
        columns = [[one.bases[place] for one in drops] for place in range(len(BASES))]
        columns.append([one.at_end for one in drops])
        choices.append([_most_alike(taken, column) for column in columns])
    fits = max(choices, key=lambda found: max((one.likelihood for one in found if one is not None), default=0.0))
    at_end = fits.pop()
    place = BASES.index("usage")
    usage = fits[place]
    if at_end is not None and (usage is None or at_end.likelihood > usage.likelihood):
        fits[place] = at_end
    return fits


def _most_alike(taken: list[float], bases: list[float]) -> _Fit | None:
    """The factor on which most quotients of `taken` and `bases` agree, with the likelihood of so many at one place by chance.

    Other workers' calls, replies out of order and minutes that begin spread the other quotients far: a mean would be theirs.
    """
    quotients = sorted(
        quotient
        for amount, basis in zip(taken, bases, strict=True)
        if basis > 0 and LEAST_FACTOR / 2 <= (quotient := amount / basis) <= LARGEST_FACTOR * 2
    )
    most = best = end = 0
    for start, lowest in enumerate(quotients):
        while end < len(quotients) and quotients[end] <= lowest * (1 + 2 * ALIKE):
            end += 1
        if end - start > most:
            most, best = end - start, start
    if most < FEWEST_ALIKE:
        return None
    factor = statistics.median(quotients[best : best + most])
    # as many as lie at its sides would be there by chance
    by_chance = max(
        1.0,
        bisect_left(quotients, quotients[best]) - bisect_left(quotients, quotients[best] / (1 + 2 * ALIKE)),
        bisect_left(quotients, quotients[best + most - 1] * (1 + 2 * ALIKE)) - best - most,
    )
    if most < max(CLEAR * by_chance, AGREE * sum(basis > 0 for basis in bases)) or best > BELOW * len(quotients):
        return None
    return _Fit(factor, ALIKE * factor / math.sqrt(most), most * math.log(most / by_chance) - (most - by_chance))
