"""Local days: when the day of a time zone begins and ends, in unix seconds."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

DEFAULT_ZONE = "UTC"

_CONTINENTS = (
    "Africa/",
    "America/",
    "Antarctica/",
    "Asia/",
    "Atlantic/",
    "Australia/",
    "Europe/",
    "Indian/",
    "Pacific/",
)
_MARGIN = 30 * 3600.0
"""Of 30 h in each direction: the longest day has 25 h, where a zone hasn't changed its side of the date line."""


@dataclass(frozen=True, slots=True)
class Day:
    """A local day: from `start` up to, not including, `end`."""

    start: int
    end: int


_last: dict[str, Day] = {}


def day_at(zone: str, at: float) -> Day:
    """Returns the local day of a moment. Raises ZoneInfoNotFoundError for an unknown zone."""
    known = _last.get(zone)
    if known is None or not known.start <= at < known.end:
        known = _last[zone] = _find(zone, at)
    return known


def days_between(zone: str, first: float, last: float) -> list[Day]:
    """Returns the local days that the moments from `first` to `last` fall into, in order."""
    found = [day_at(zone, first)]
    while found[-1].end <= last:
        found.append(_find(zone, found[-1].end))
    return found


def local(zone: str, at: float) -> str:
    """Returns a moment as "2026-12-01 00:00 America/Los_Angeles"."""
    return f"{datetime.fromtimestamp(at, _zone(zone)):%Y-%m-%d %H:%M} {zone}"


def local_iso(zone: str, at: float) -> str:
    """Returns a moment as "2026-12-01T00:00:00-08:00"."""
    return datetime.fromtimestamp(at, _zone(zone)).isoformat(timespec="seconds")


def used_up(unit: str, limit: int, zone: str) -> str:
    """Returns the sentence for a limit by day without room: with it a worker stores that, and it is compared with the configuration."""
    field = "limit_req_per_day" if unit == "requests" else "limit_tokens_per_day"
    left = "is used up" if unit == "requests" else "has no room for the next call"
    return f"{field} of {limit:,} {left}; the day begins at midnight, {zone}"


def _find(zone: str, at: float) -> Day:
    """Looks for the midnights around a moment. A midnight that the clocks skip stands for the moment of the change, and one that
    comes twice for the first: that is the meaning of `fold=0`."""
    where = _zone(zone)
    date = datetime.fromtimestamp(at - _MARGIN, where).date()
    start = _midnight(date, where)
    while True:
        date += timedelta(days=1)
        end = _midnight(date, where)
        if start <= at < end:
            return Day(start, end)
        start = max(start, end)


def _midnight(date: object, where: tzinfo) -> int:
    return int(datetime.combine(date, datetime.min.time(), where).timestamp())  # type: ignore[arg-type]


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    return UTC if name == DEFAULT_ZONE else ZoneInfo(name)


def _known_zones() -> set[str]:
    return available_timezones() - {"localtime", "Factory"} | {
        DEFAULT_ZONE
    }  # those differ by machine, or name no place


def is_zone(name: str) -> bool:
    """Returns whether this is a name of the IANA time zone database."""
    if name == DEFAULT_ZONE:
        return True
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return name in _known_zones()


def nearest_zone(name: str) -> str | None:
    """Returns the zone that was probably meant: by its whole name, or by its city."""
    known = sorted(_known_zones())
    wanted = name.strip().replace(" ", "_").lower()
    by_name = {zone.lower(): zone for zone in known}
    cities = {zone.rpartition("/")[2].lower(): zone for zone in reversed(known) if zone.startswith(_CONTINENTS)}
    if wanted in by_name:
        return by_name[wanted]
    if wanted in cities:
        return cities[wanted]
    if "/" in wanted:
        found = difflib.get_close_matches(wanted, by_name, n=1, cutoff=0.6)
        return by_name[found[0]] if found else None
    found = difflib.get_close_matches(wanted, cities, n=1, cutoff=0.75)
    return cities[found[0]] if found else None
