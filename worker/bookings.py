"""What a call is booked as on its limits, what it should have been booked as, and what it may cost: by its plugin's word and by what
earlier calls took.

It books nothing itself; `worker.limits` does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from models.guesses import COLD_OUTPUT_TOKENS, tokens_of
from models.learning import learns_any
from models.prices import Cost, price
from models.request import EMBEDDINGS, FailureKind, Request, Response, Usage
from worker.estimates import Estimates
from worker.keys import KeyRing
from worker.limits.shapes import Charge, LimitedKey
from worker.providers.base import Provider, bound_of
from worker.token_counting import Rule, Sent, Sizes, TokenCounting

log = logging.getLogger("truckllm.bookings")

NOTHING_TAKEN = Charge(requests=0, tokens=0, input_tokens=0, output_tokens=0)
"""Of a call that never was: what was booked for it is free again."""
MOST_TOKENS = 2**40
"""No call takes more; what asks for more would only overflow counters on its way to being refused."""
LONGEST_OUTPUT_TOKENS = 131_072
"""The longest output that is assumed of a model without `max_output_tokens` and `context_window`: 128k, the most of current models."""


class Bookings:
    """Of one provider's calls. `size` is what a request holds, as `models.guesses.characters` counts it: text, media."""

    def __init__(self, provider: Provider, ring: KeyRing) -> None:
        self._provider = provider
        self._ring = ring
        self._estimates = Estimates(provider.config.default_output_tokens)
        self.counting = TokenCounting(provider.name) if learns_any(provider.config) else None
        """How the server counts tokens, as far as that is found out; None where limits aren't learned."""

    def charge(self, request: Request, size: tuple[int, int], keys: Sequence[LimitedKey] = ()) -> Charge:
        """Returns what to book when the call starts on one of these keys: as the server counts, where that was found out, else as the plugin
        says. Raises whatever the plugin raises."""
        own, sizes = self._own_charge(request, size)
        rule = _OWN if self.counting is None else self.counting.rule(request.model)
        if rule == _OWN:
            return own
        # A wrong rule must not make a call look bigger than a whole minute: it would fail for good.
        most = max((_most_tokens(key) for key in keys), default=MOST_TOKENS)
        tokens = rule.tokens(sizes)
        return sound(replace(own, tokens=tokens if tokens <= most else max(most, own.tokens)))

    def _own_charge(self, request: Request, size: tuple[int, int]) -> tuple[Charge, Sizes]:
        """The plugin's charge, and what the call holds by the present estimates. Raises whatever the plugin raises."""
        most = bound_of(self._provider, request)
        most = None if most is None else min(most, MOST_TOKENS)
        going_in = self._estimates.input_tokens(request.model, size)
        coming_out = self._estimates.output_tokens(request.model, most)
        charge = sound(self._provider.charge(request, going_in, coming_out))
        if request.operation == EMBEDDINGS:
            coming_out = most = 0
        going_in = charge.input_tokens or going_in
        bound = coming_out if most is None else most
        return charge, Sizes(charge.tokens, going_in, coming_out, bound, size[0])

    def settled(self, booked: Charge, usage: Usage, request: Request, size: tuple[int, int]) -> Charge | None:
        """What the limits should have booked; None where the plugin can't tell, then the reply, which is paid for, counts all the same."""
        try:
            rule = _OWN if self.counting is None else self.counting.rule(request.model)
            if rule != _OWN:
                return self._settled_by(rule, booked, usage, request, size)
            settled = self._provider.settled(booked, usage)
            return booked if settled is booked else sound(settled)
        except Exception:
            log.exception("provider %s failed to tell what a call took", self._provider.name)
            return None

    def _settled_by(self, rule: Rule, booked: Charge, usage: Usage, request: Request, size: tuple[int, int]) -> Charge:
        """The same by a rule that was found out. Raises whatever the plugin raises."""
        if rule.basis == "own":
            as_own = replace(booked, tokens=round(booked.tokens / rule.factor))
            settled = self._provider.settled(as_own, usage)
            return booked if settled is as_own else sound(replace(settled, tokens=round(settled.tokens * rule.factor)))
        settled = self._provider.settled(booked, usage)
        bound = bound_of(self._provider, request)
        bound = 0 if request.operation == EMBEDDINGS else usage.output_tokens if bound is None else bound
        sizes = Sizes(settled.tokens, usage.input_tokens, usage.output_tokens, bound, size[0])
        tokens = rule.tokens(sizes)
        return sound(replace(settled, tokens=max(booked.tokens, tokens) if rule.reserves else tokens))

    # How the server counts

    def sent(self, request: Request, size: tuple[int, int], key: LimitedKey) -> Sent | None:
        """Takes in a call that is sent now; what is returned is for `ended`, which has to follow in any case. Never raises."""
        if self.counting is None:
            return None
        try:
            _, sizes = self._own_charge(request, size)
            return self.counting.sent(key.pool, request.model, sizes, time.monotonic())
        except Exception:
            log.exception("provider %s failed to tell what a call takes", self._provider.name)
            return None

    def ended(self, sent: Sent | None, response: Response | None) -> None:
        """Takes in what came of it, None for no response. Never raises: an answer is paid for, whatever goes wrong here."""
        if sent is None or self.counting is None:
            return
        try:
            failure, usage = (None, None) if response is None else (response.failure, response.usage)
            self.counting.ended(
                sent,
                time.monotonic(),
                () if response is None else response.limits,
                refused=failure is not None and failure.kind in (FailureKind.RATE_LIMIT, FailureKind.TOO_LARGE),
                usage=None if usage is None else (usage.input_tokens, usage.output_tokens),
            )
        except Exception:
            log.exception("how %s counts tokens could not be learned from a reply", self._provider.name)

    def learn(self, request: Request, size: tuple[int, int], usage: Usage) -> None:
        """Takes in what a call really took."""
        self._estimates.learn(request.model, size, usage.input_tokens, usage.output_tokens)
        if bound_of(self._provider, request) is None:
            self._estimates.learn_unbounded(request.model, usage.output_tokens)

    def may_cost(self, request: Request, size: tuple[int, int], key: LimitedKey) -> Cost | None:
        """Returns the estimated cost of a call on this key: at the tier that the request asks for, with output up to the request's own bound,
        else to what the model is known to be able to write, else to the configured guess. None without a price.

        It uses nothing that this process has learned, so that all workers of a batch estimate alike; `models.store.budgets` adds
        what answers have shown.
        """
        return self._cost(request, size, key)

    def most_cost(self, request: Request, size: tuple[int, int], key: LimitedKey) -> Cost | None:
        """Returns the same for a server that ignores the request's bound. None if the model's longest output isn't configured."""
        return self._cost(request, size, key, largest=True)

    def longest_cost(self, request: Request, size: tuple[int, int], key: LimitedKey) -> Cost | None:
        """Returns the same for the longest output that is configured, or else fits the context window, or else is assumed of any model."""
        settings = self._provider.config.models.get(request.model)
        window = settings.context_window if settings else None
        return self._cost(request, size, key, largest=True, assumed=window or LONGEST_OUTPUT_TOKENS)

    def learned_cost(self, request: Request, size: tuple[int, int], key: LimitedKey) -> Cost | None:
        """Returns the same as `may_cost` for a request without a bound, with output as long as the longest that this process has seen of
        such requests, where that is less. None if too few have answered, or the request is bounded."""
        longest = self._estimates.longest_output(request.model)
        return None if longest is None else self._cost(request, size, key, longest=longest)

    def _cost(
        self,
        request: Request,
        size: tuple[int, int],
        key: LimitedKey,
        *,
        largest: bool = False,
        assumed: int | None = None,
        longest: int | None = None,
    ) -> Cost | None:
        config = self._provider.config
        try:
            most = config.max_output_tokens(self._ring.key(key.name), request.model) or assumed
            bound = bound_of(self._provider, request)
            if (largest and most is None) or (longest is not None and bound is not None):
                return None
            guess = config.default_output_tokens or COLD_OUTPUT_TOKENS
            if longest is not None:
                most = min(longest, guess if most is None else most)
            known = [tokens for tokens in (most, None if largest else bound) if tokens is not None]
            coming_out = min(known, default=guess)
            usage = self._provider.may_use(request, min(tokens_of(size), MOST_TOKENS), min(coming_out, MOST_TOKENS))
            return price(usage, config.pricing(self._ring.key(key.name), request.model))
        except MemoryError:  # says nothing of prices; a batch with a cap would be paused for the want of one
            raise
        except Exception:
            log.exception("provider %s failed to estimate what a call may cost", self._provider.name)
            return None


_OWN = Rule()


def _most_tokens(key: LimitedKey) -> int:
    """The most tokens that a call may take on this key."""
    return min((bucket.limit for bucket in key.buckets if bucket.unit == "tokens"), default=MOST_TOKENS)


def sound(charge: Charge) -> Charge:
    """A plugin's charge in whole numbers that the limiter can count: nothing below zero gives back what others have booked. Raises
    ValueError, OverflowError or TypeError for what is no number."""
    told = (charge.requests, charge.tokens, charge.input_tokens, charge.output_tokens)
    if all(type(amount) is int and 0 <= amount <= MOST_TOKENS for amount in told):
        return charge
    return Charge(*(min(max(int(amount), 0), MOST_TOKENS) for amount in told))
