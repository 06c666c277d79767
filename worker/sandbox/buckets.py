"""Token buckets and day counters: how much quota is left, and how long until there is enough.

They know no provider and no clock: the caller says what time it is, in seconds.
"""

import math
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


class DayCount:
    """Requests of the current day in `zone`; it starts again at midnight there."""

    __slots__ = ("_ends", "_zone", "limit", "used")

    def __init__(self, limit: int, zone: tzinfo) -> None:
        self.limit = limit
        self.used = 0
        self._zone = zone
        self._ends = 0.0

    def wait(self, wall: float) -> float:
        """Seconds (of the wall clock `wall`, unix) until one more request is allowed: 0.0 now."""
        if wall >= self._ends:
            self.used = 0
            self._ends = _next_midnight(wall, self._zone)
        return self._ends - wall if self.used >= self.limit else 0.0

    def take(self) -> None:
        self.used += 1


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
