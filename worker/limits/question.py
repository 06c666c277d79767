"""The wants of one call to the limiter, checked and put as reserve.lua reads them.

It asks nobody anything.
"""

from __future__ import annotations

from models.days import Day, days_between
from worker.limits.shapes import UNITS, Bucket, LimitedKey, TooLarge, Want

DAY_SECONDS = 2.0
"""So long before and after its midnight a day counts calls as well: clocks differ, and a call may reach its server late."""


class Question:
    """The wants of one call with their keys and buckets named once each, as reserve.lua reads them."""

    def __init__(self) -> None:
        self.places: list[int] = []
        self.keys: list[LimitedKey] = []
        self.bucket_ids: list[str] = []
        self._bucket_units: list[int] = []
        self._bucket_limits: list[int] = []
        self._bucket_index: dict[str, int] = {}
        self._key_index: dict[LimitedKey, int] = {}
        self._members: list[list[int]] = []
        self._sets: list[list[int]] = []
        self._set_index: dict[tuple[tuple[LimitedKey, ...], str], int] = {}
        self._set_models: list[str] = []
        self._known: dict[tuple[int, str], tuple[int, tuple[int, int, int, int]]] = {}
        self._want_ids: list[str] = []
        self._want_sets: list[int] = []
        self._charges: list[int] = []
        self._rules: set[str] = set()
        self.day_buckets: list[Bucket] = []
        self._day_index: dict[str, int] = {}
        self._day_members: list[list[int]] = []

    @property
    def rules(self) -> str | bool:
        """What all its keys' limits go by; false if any limits do. Keys of two rules can't be asked for in one call."""
        known = self._rules - {""}
        if len(known) > 1:
            return "two"
        return next(iter(known), False)

    def add(self, place: int, want: Want) -> TooLarge | None:
        """Takes one want in, or says that no key could ever take it. Raises ValueError if it has no key at all."""
        if not want.keys:
            raise ValueError(f"want {want.id} names no key")
        charge = want.charge
        amounts = (charge.requests, charge.tokens, charge.input_tokens, charge.output_tokens)
        # Wants of one model share the very same tuple of keys, so most are found by identity.
        known = self._known.get((id(want.keys), want.model))
        if known is None:
            chosen = self._set(want.keys, want.model)
            known = self._known[id(want.keys), want.model] = (chosen, _least_limits(want.keys))
        chosen, least = known
        if any(amount > limit for amount, limit in zip(amounts, least, strict=True)):
            able = tuple(key for key in want.keys if all(charge.of(b.unit) <= b.limit for b in key.buckets))
            if not able:
                return _too_large(want)
            chosen = self._set(able, want.model)
        self.places.append(place)
        self._want_ids.append(want.id)
        self._want_sets.append(chosen)
        self._charges.extend(amounts)
        return None

    def args(self) -> tuple[object, ...]:
        """From the bucket ids on, in the order of reserve.lua's list."""
        return (
            self.bucket_ids,
            self._bucket_units,
            self._bucket_limits,
            [key.lock for key in self.keys],
            [key.pool for key in self.keys],
            [key.rank for key in self.keys],
            self._members,
            self._sets,
            self._set_models,
            self._want_ids,
            self._want_sets,
            self._charges,
        )

    def days(self, now: float, horizon: float) -> tuple[object, dict[str, list[Day]]]:
        """Returns the limits by day as reserve_days.lua reads them, False if there are none; and by zone the days that count a call
        which is granted at `now` (unix seconds) and starts within the horizon, or up to a second late."""
        if not self.day_buckets:
            return False, {}
        last = now + horizon + 1.0 + DAY_SECONDS
        zones = {zone: days_between(zone, now - DAY_SECONDS, last) for zone in {one.zone for one in self.day_buckets}}
        found = [zones[bucket.zone] for bucket in self.day_buckets]
        asked = (
            [bucket.id for bucket in self.day_buckets],
            [UNITS.index(bucket.unit) + 1 for bucket in self.day_buckets],
            [bucket.limit for bucket in self.day_buckets],
            [[day.start for day in days] for days in found],
            [[day.end + DAY_SECONDS - now for day in days] for days in found],
            self._day_members,
        )
        return asked, zones

    def _set(self, keys: tuple[LimitedKey, ...], model: str) -> int:
        index = self._set_index.get((keys, model))
        if index is None:
            self._sets.append([self._key(key) for key in sorted(keys, key=lambda key: key.rank)])
            self._set_models.append(model)
            index = self._set_index[keys, model] = len(self._sets)
        return index

    def _key(self, key: LimitedKey) -> int:
        index = self._key_index.get(key)
        if index is None:
            self.keys.append(key)
            self._rules.add(key.rules)
            self._members.append([self._bucket(bucket) for bucket in key.buckets if not bucket.zone])
            self._day_members.append([self._day_bucket(bucket) for bucket in key.buckets if bucket.zone])
            index = self._key_index[key] = len(self.keys)
        return index

    def _day_bucket(self, bucket: Bucket) -> int:
        index = self._day_index.get(bucket.id)
        if index is None:
            self.day_buckets.append(bucket)
            index = self._day_index[bucket.id] = len(self.day_buckets)
        return index

    def _bucket(self, bucket: Bucket) -> int:
        index = self._bucket_index.get(bucket.id)
        if index is None:
            self.bucket_ids.append(bucket.id)
            self._bucket_units.append(UNITS.index(bucket.unit) + 1)
            self._bucket_limits.append(bucket.limit)
            index = self._bucket_index[bucket.id] = len(self.bucket_ids)
        return index


def _least_limits(keys: tuple[LimitedKey, ...]) -> tuple[int, int, int, int]:
    """By unit, the smallest limit on any of `keys`: what is below it fits them all."""
    least = dict.fromkeys(UNITS, 2**62)
    for key in keys:
        for bucket in key.buckets:
            least[bucket.unit] = min(least[bucket.unit], bucket.limit)
    return least["requests"], least["tokens"], least["input_tokens"], least["output_tokens"]


def _too_large(want: Want) -> TooLarge:
    """Names the bucket that refuses the want on the key that comes nearest to taking it."""
    worst = [
        max(
            (b for b in key.buckets if want.charge.of(b.unit) > b.limit),
            key=lambda b: want.charge.of(b.unit) / max(b.limit, 1),
        )
        for key in want.keys
    ]
    nearest = min(worst, key=lambda bucket: want.charge.of(bucket.unit) / max(bucket.limit, 1))
    return TooLarge(want.id, nearest.unit, want.charge.of(nearest.unit), nearest.limit, bool(nearest.zone))
