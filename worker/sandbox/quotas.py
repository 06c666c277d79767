"""Who may call and how much: keys, the pools they share, and whether one call is admitted now.

It does not know how a refusal looks on the wire: that is each dialect's own.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from worker.sandbox.buckets import Bucket, DayCount, FixedMinute, Minute, SlidingMinute, Slots, day_zone
from worker.sandbox.settings import Account, Limits, ModelLimits, ProviderName

LimitKind = Literal["requests", "tokens", "day", "day_tokens", "concurrent"]
CONCURRENT_WAIT = 1.0
"""Seconds that a call over the limit of calls at once is to wait: a gateway can't say when one ends (Moonshot says 1)."""


def key_name(secret: str) -> str:
    """How the log calls a key: the start of its sha256, after its last 4 characters if it is long enough to spare them."""
    digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{secret[-4:]}-{digest}" if len(secret) >= 12 and secret[-4:].isascii() else digest


@dataclass(frozen=True, slots=True)
class Gauge:
    """One bucket as headers show it: limit a minute, whole units left, seconds until full."""

    limit: int
    remaining: int
    reset: float


@dataclass(frozen=True, slots=True)
class Standing:
    """A pool's gauges for one model right after a call was judged; None where there is no limit."""

    requests: Gauge | None = None
    tokens: Gauge | None = None


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a call is not admitted: which limit, its size, what is used of it, what was asked, seconds to wait (inf: never).

    `stated` is the wait that the reply states, None if it states none.
    """

    what: LimitKind
    limit: int
    used: int
    requested: int
    wait: float
    stated: float | None = None

    @property
    def too_large(self) -> bool:
        return math.isinf(self.wait)


@dataclass(slots=True)
class _Meters:
    """What is counted for a model, or for all that have no limits of their own; None where there is no limit."""

    requests: Minute | None
    tokens: Minute | None
    day: DayCount | None
    day_tokens: DayCount | None
    concurrent: Slots | None


class Pool:
    """One quota, of one key or of several; a model with limits of its own has meters of its own for those."""

    def __init__(self, limits: Limits, provider: ProviderName, now: float) -> None:
        self._limits = limits
        self._provider = provider
        self._meters = self._made(limits, now, None)
        self._models = {name: self._made(own, now, self._meters) for name, own in limits.models.items()}

    def _made(self, limits: ModelLimits, now: float, shared: _Meters | None) -> _Meters:
        zone = day_zone(self._provider)

        def minute(limit: int | None) -> Minute | None:
            if not limit:
                return None
            limit = self._enforced(limit)
            match self._limits.window:
                case "fixed":
                    return FixedMinute(limit, now)
                case "sliding":
                    return SlidingMinute(limit)
                case _:
                    return Bucket(limit, self._limits.burst_seconds, now)

        made = _Meters(
            minute(limits.rpm),
            minute(limits.tpm),
            DayCount(self._enforced(limits.rpd), zone) if limits.rpd else None,
            DayCount(self._enforced(limits.tpd), zone) if limits.tpd else None,
            Slots(self._enforced(limits.concurrent)) if limits.concurrent else None,
        )
        if shared is not None:
            made.requests = made.requests or shared.requests
            made.tokens = made.tokens or shared.tokens
            made.day = made.day or shared.day
            made.day_tokens = made.day_tokens or shared.day_tokens
            made.concurrent = made.concurrent or shared.concurrent
        return made

    def _enforced(self, limit: int) -> int:
        return max(1, int(limit * self._limits.enforced))

    def _of(self, model: str) -> _Meters:
        return self._models.get(model, self._meters)

    def charge(self, own: tuple[int, int], prompt: int, output: int, max_tokens: int | None) -> tuple[int, int]:
        """Returns the tokens that a call is charged when it arrives, and when it is done. `own` is the provider's own rule."""
        most = output if max_tokens is None else max_tokens
        at_arrival, at_end = {
            "provider": own,
            "prompt": (prompt, 0),
            "max_tokens": (most, 0),
            "both": (prompt + most, 0),
            "usage": (prompt, output),
        }[self._limits.counts]
        factor = self._limits.count_factor
        if factor == 1.0:
            return at_arrival, at_end
        return math.ceil(at_arrival * factor), math.ceil(at_end * factor)

    def admit(self, model: str, tokens: int, now: float, wall: float) -> Denial | None:
        """Charge one request of `tokens` to every limit that holds for `model`, or to none and say which denies it."""
        meters = self._of(model)
        requests, budget, slots = meters.requests, meters.tokens, meters.concurrent
        if slots is not None and slots.full:
            return self._denial("concurrent", slots.limit, slots.used, 1, CONCURRENT_WAIT)
        if (day := meters.day) is not None and (wait := day.wait(wall)):
            return self._denial("day", day.limit, day.used, 1, wait)
        if (day := meters.day_tokens) is not None and (wait := day.wait(wall, tokens)):
            return self._denial("day_tokens", day.limit, day.used, tokens, wait)
        if budget is not None and (wait := budget.wait(tokens, now)):
            return self._denial("tokens", budget.limit, _used(budget, now), tokens, wait)
        if requests is not None:
            if wait := requests.wait(1, now):
                return self._denial("requests", requests.limit, _used(requests, now), 1, wait)
            requests.take(1, now)
        if budget is not None:
            budget.take(tokens, now)
        if meters.day is not None:
            meters.day.take()
        if meters.day_tokens is not None:
            meters.day_tokens.take(tokens)
        if slots is not None:
            slots.used += 1
        return None

    def leave(self, model: str) -> None:
        """Frees the place of a call that was admitted and has ended."""
        if (slots := self._of(model).concurrent) is not None:
            slots.used -= 1

    def _denial(self, what: LimitKind, limit: int, used: int, requested: int, wait: float) -> Denial:
        share, told = self._limits.enforced, self._limits.retry_after
        stated = None if told == "none" or math.isinf(wait) else wait if told == "right" else told
        return Denial(what, round(limit / share), math.ceil(used / share), requested, wait, stated)

    def charge_output(self, model: str, tokens: int, now: float) -> None:
        """Charge tokens that were produced, into debt if need be."""
        meters = self._of(model)
        if meters.tokens is not None:
            meters.tokens.take(tokens, now)
        if meters.day_tokens is not None:
            meters.day_tokens.take(tokens)

    def charge_refusal(self, model: str, now: float, provider_does: bool) -> None:
        """Charge a refused request where refusals count, never into debt. `provider_does` is the provider's own rule."""
        requests, counts = self._of(model).requests, self._limits.refusals_count
        if requests is not None and (provider_does if counts is None else counts):
            requests.drain(1, now)

    def standing(self, model: str, now: float) -> Standing:
        if self._limits.headers == "none":
            return Standing()
        meters = self._of(model)
        return Standing(self._gauge(meters.requests, now), self._gauge(meters.tokens, now))

    def _gauge(self, minute: Minute | None, now: float) -> Gauge | None:
        if minute is None:
            return None
        share = self._limits.enforced
        limit = round(minute.limit / share)
        if self._limits.headers == "wrong":
            return Gauge(2 * limit, 2 * limit, 0.0)
        return Gauge(limit, max(0, int(minute.level(now) / share)), minute.until_full(now))


def _used(minute: Minute, now: float) -> int:
    """What the last minute's limit would have left, as providers word it: limit minus what is there."""
    return min(minute.limit, math.ceil(minute.limit * (1 - max(0.0, minute.level(now)) / minute.capacity)))


@dataclass(frozen=True, slots=True)
class Holder:
    """A key that is let in: its name in the log, its pool, and whom its calls must name if they name anybody."""

    key_id: str
    pool: Pool
    organization: str | None = None
    project: str | None = None


class Register:
    """All accepted keys. Without accounts every key is accepted and gets a pool of its own at first sight."""

    def __init__(self, accounts: Sequence[Account], anybody: Limits, now: float) -> None:
        self._open = not accounts
        self._anybody = anybody
        self._holders: dict[tuple[ProviderName, str], Holder] = {}
        pools: dict[str, Pool] = {}
        stated: dict[str, Limits] = {}
        for account in accounts:
            if account.pool and account.stated:
                stated.setdefault(account.pool, account.limits())
        for account in accounts:
            if account.pool is None:
                pool = Pool(account.limits(), account.provider, now)
            elif account.pool in pools:
                pool = pools[account.pool]
            else:
                pool = pools[account.pool] = Pool(stated.get(account.pool, Limits()), account.provider, now)
            self._holders[account.provider, account.key] = Holder(
                key_name(account.key), pool, account.organization, account.project
            )

    def find(self, provider: ProviderName, secret: str, now: float) -> Holder | None:
        """The holder of a key, or None if it is not accepted."""
        holder = self._holders.get((provider, secret))
        if holder is None and self._open:
            holder = Holder(key_name(secret), Pool(self._anybody, provider, now))
            self._holders[provider, secret] = holder
        return holder
