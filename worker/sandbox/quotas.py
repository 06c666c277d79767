"""Who may call and how much: keys, the pools they share, and whether one call is admitted now.

It does not know how a refusal looks on the wire: that is each dialect's own.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from worker.sandbox.buckets import Bucket, DayCount, day_zone
from worker.sandbox.settings import Account, Limits, ProviderName


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
    """Why a call is not admitted: which limit, its size, what is used of it, what was asked, seconds to wait (inf: never)."""

    what: Literal["requests", "tokens", "day"]
    limit: int
    used: int
    requested: int
    wait: float

    @property
    def too_large(self) -> bool:
        return math.isinf(self.wait)


class Pool:
    """One quota, of one key or of several; a model with limits of its own has buckets of its own."""

    def __init__(self, limits: Limits, provider: ProviderName, now: float) -> None:
        self._limits = limits
        self._requests = _bucket(limits.rpm, limits, now)
        self._tokens = _bucket(limits.tpm, limits, now)
        self._day = DayCount(limits.rpd, day_zone(provider)) if limits.rpd else None
        self._models = {
            name: (
                _bucket(own.rpm, limits, now) if own.rpm else self._requests,
                _bucket(own.tpm, limits, now) if own.tpm else self._tokens,
            )
            for name, own in limits.models.items()
        }

    def _buckets(self, model: str) -> tuple[Bucket | None, Bucket | None]:
        return self._models.get(model) or (self._requests, self._tokens)

    def admit(self, model: str, tokens: int, now: float, wall: float) -> Denial | None:
        """Charge one request of `tokens` to every limit that holds for `model`, or to none and say which denies it."""
        requests, budget = self._buckets(model)
        if self._day is not None and (wait := self._day.wait(wall)):
            return Denial("day", self._day.limit, self._day.used, 1, wait)
        if budget is not None and (wait := budget.wait(tokens, now)):
            return Denial("tokens", budget.limit, _used(budget, now), tokens, wait)
        if requests is not None:
            if wait := requests.wait(1, now):
                return Denial("requests", requests.limit, _used(requests, now), 1, wait)
            requests.take(1, now)
        if budget is not None:
            budget.take(tokens, now)
        if self._day is not None:
            self._day.take()
        return None

    def charge_output(self, model: str, tokens: int, now: float) -> None:
        """Charge tokens that were produced, into debt if need be."""
        budget = self._buckets(model)[1]
        if budget is not None:
            budget.take(tokens, now)

    def charge_refusal(self, model: str, now: float) -> None:
        """Charge a refused request where refusals count, never into debt."""
        requests = self._buckets(model)[0]
        if requests is not None:
            requests.drain(1, now)

    def standing(self, model: str, now: float) -> Standing:
        requests, budget = self._buckets(model)
        return Standing(_gauge(requests, now), _gauge(budget, now))


def _bucket(limit: int | None, limits: Limits, now: float) -> Bucket | None:
    return Bucket(limit, limits.burst_seconds, now) if limit else None


def _gauge(bucket: Bucket | None, now: float) -> Gauge | None:
    if bucket is None:
        return None
    return Gauge(bucket.limit, max(0, int(bucket.level(now))), bucket.until_full(now))


def _used(bucket: Bucket, now: float) -> int:
    """What the last minute's limit would have left, as providers word it: limit minus what is there."""
    return min(bucket.limit, math.ceil(bucket.limit * (1 - max(0.0, bucket.level(now)) / bucket.capacity)))


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
