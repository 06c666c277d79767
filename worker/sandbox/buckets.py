"""Token buckets, minutes, days and calls at once: how much quota is left, and how long until there is enough.

They know no provider and no clock: the caller says what time it is, in seconds.
"""

import math
from collections import deque
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_SLACK = 1e-6  # refilling in floats loses a hair; a caller who waits exactly as told must be let in


class Bucket:
    """A bucket refilled continuously at limit/60 a second, holding `burst_seconds` worth (at least one unit).

    What fits is admitted when it is there. What is larger than the bucket but not than a whole minute's limit is
    admitted when the bucket is full, and puts it into debt; what is larger than the limit never is.
    """

    __slots__ = ("_at", "_level", "capacity", "limit", "rate")

    def __init__(self, limit: int, burst_seconds: float, now: float) -> None:
        self.limit = limit
        self.rate = limit / 60
        self.capacity = max(1.0, self.rate * burst_seconds)
        self._level = self.capacity
        self._at = now

    def level(self, now: float) -> float:
        """Units left at `now`; negative while in debt."""
        if now > self._at:
            self._level = min(self.capacity, self._level + (now - self._at) * self.rate)
            self._at = now
        return self._level

    def wait(self, cost: float, now: float) -> float:
        """Seconds until `cost` would be admitted: 0.0 now, infinity never."""
        if cost > self.limit:
            return math.inf
        short = min(cost, self.capacity) - self.level(now)
        return short / self.rate if short > _SLACK else 0.0

    def take(self, cost: float, now: float) -> None:
        """Charge `cost`, into debt if need be; whether it may be charged is the caller's question to `wait`."""
        self._level = self.level(now) - cost

    def drain(self, cost: float, now: float) -> None:
        """Charge `cost` but never into debt: what a refused request costs where refusals count."""
        self._level = min(self.level(now), max(0.0, self._level - cost))

    def until_full(self, now: float) -> float:
        """Seconds until the bucket is as at the start."""
        return (self.capacity - self.level(now)) / self.rate


class FixedMinute:
    """A quota that is whole again at the start of each minute of the clock. What would exceed it is refused until then."""

    __slots__ = ("_ends", "_used", "capacity", "limit")

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self.capacity = float(limit)
        self._used = 0.0
        self._ends = _minute_end(now)

    def level(self, now: float) -> float:
        """Returns the units left at `now`; negative where output took more than was left."""
        if now >= self._ends:
            self._used, self._ends = 0.0, _minute_end(now)
        return self.limit - self._used

    def wait(self, cost: float, now: float) -> float:
        """Returns the seconds until `cost` is admitted: 0.0 now, infinity never."""
        if cost > self.limit:
            return math.inf
        return 0.0 if cost <= self.level(now) else self._ends - now

    def take(self, cost: float, now: float) -> None:
        """Charges `cost`, into debt if need be."""
        self.level(now)
        self._used += cost

    def drain(self, cost: float, now: float) -> None:
        """Charges `cost`, but never into debt."""
        self.take(max(0.0, min(cost, self.level(now))), now)

    def until_full(self, now: float) -> float:
        """Returns the seconds until the quota is whole again."""
        return self._ends - now if self.level(now) < self.limit else 0.0


class SlidingMinute:
    """A quota of any 60 s: each charge comes back a minute after it was made."""

    __slots__ = ("_charges", "_used", "capacity", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.capacity = float(limit)
        self._charges: deque[tuple[float, float]] = deque()  # when, units
        self._used = 0.0

    def level(self, now: float) -> float:
        """Returns the units left at `now`; negative where output took more than was left."""
        while self._charges and self._charges[0][0] <= now - 60:
            self._used -= self._charges.popleft()[1]
        return self.limit - self._used

    def wait(self, cost: float, now: float) -> float:
        """Returns the seconds until `cost` is admitted: 0.0 now, infinity never."""
        if cost > self.limit:
            return math.inf
        left = self.level(now)
        if cost <= left + _SLACK:
            return 0.0
        for at, units in self._charges:
            left += units
            if cost <= left + _SLACK:
                return at + 60 - now
        return 60.0

    def take(self, cost: float, now: float) -> None:
        """Charges `cost`, into debt if need be."""
        self.level(now)
        if cost:
            self._charges.append((now, cost))
            self._used += cost

    def drain(self, cost: float, now: float) -> None:
        """Charges `cost`, but never into debt."""
        self.take(max(0.0, min(cost, self.level(now))), now)

    def until_full(self, now: float) -> float:
        """Returns the seconds until the quota is whole again."""
        self.level(now)
        return self._charges[-1][0] + 60 - now if self._charges else 0.0


Minute = Bucket | FixedMinute | SlidingMinute
"""A quota a minute, in one of the ways that servers count it."""


def _minute_end(now: float) -> float:
    return (math.floor(now / 60) + 1) * 60.0


class Slots:
    """Calls at once: `limit` of them may be in flight."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    @property
    def full(self) -> bool:
        return self.used >= self.limit


class DayCount:
    """Requests or tokens of the current day in `zone`; it starts again at midnight there."""

    __slots__ = ("_ends", "_zone", "limit", "used")

    def __init__(self, limit: int, zone: tzinfo) -> None:
        self.limit = limit
        self.used = 0
        self._zone = zone
        self._ends = 0.0

    def wait(self, wall: float, cost: int = 1) -> float:
        """Returns the seconds (of the wall clock `wall`, unix) until `cost` more are allowed: 0.0 now, infinity never."""
        if cost > self.limit:
            return math.inf
        if wall >= self._ends:
            self.used = 0
            self._ends = _next_midnight(wall, self._zone)
        return self._ends - wall if self.used + cost > self.limit else 0.0

    def take(self, cost: int = 1) -> None:
        self.used += cost


def _next_midnight(wall: float, zone: tzinfo) -> float:
    today = datetime.fromtimestamp(wall, zone).date()
    return datetime.combine(today + timedelta(days=1), datetime.min.time(), zone).timestamp()


def day_zone(provider: str) -> tzinfo:
    """Where a provider's day ends: Gemini's at midnight Pacific, the others' at midnight UTC."""
    if provider != "gemini":
        return UTC
    try:
        return ZoneInfo("America/Los_Angeles")
    except ZoneInfoNotFoundError:  # a machine without a time zone database
        return timezone(timedelta(hours=-8))
