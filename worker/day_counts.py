"""What the ledger has of a day, by the limits' buckets: with this a counter begins that Redis doesn't have.

It goes by the calls alone, as `worker.last_minute` does.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from models.days import Day, day_at
from models.request import Usage
from models.store import days as day_store
from models.store.days import Started
from worker.bookings import sound
from worker.limits.question import DAY_SECONDS
from worker.limits.shapes import Charge, DayId
from worker.pools import day_bucket_id, zone_of
from worker.providers.base import Provider
from worker.providers.claude import Claude
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI
from worker.recorder import Recorder

log = logging.getLogger("truckllm.day_counts")

_SUMMED = tuple(one.settled for one in (Provider, Claude, Gemini, OpenAI))
"""These take sums of calls for a call: what they return is a sum of what goes in."""


class DayCounts:
    """`providers` are all that this process has, by id; `pools` returns those that a key may draw on."""

    def __init__(
        self, recorder: Recorder, providers: Mapping[str, Provider], pools: Callable[[str], Collection[str]]
    ) -> None:
        self._recorder = recorder
        self._providers = providers
        self._pools = pools

    async def of(self, wanted: Sequence[DayId]) -> dict[DayId, int]:
        """Returns the amounts of these days; a call near midnight counts for both. Raises StorageError."""
        by_day: dict[Day, list[str]] = defaultdict(list)
        for name, start in wanted:
            by_day[day_at(zone_of(name), start)].append(name)
        found: dict[DayId, int] = {}
        for day, names in by_day.items():
            since, before = day.start - DAY_SECONDS, day.end + DAY_SECONDS
            rows = await self._recorder.call(
                lambda connection, since=since, before=before: day_store.started(connection, since, before)  # type: ignore[misc]
            )
            for name, amount in self._by_bucket(names, rows).items():
                found[name, day.start] = amount
        return found

    def _by_bucket(self, names: Sequence[str], rows: Sequence[Started]) -> dict[str, int]:
        amounts = dict.fromkeys(names, 0)
        zones = {zone_of(name) for name in names}
        for row in rows:
            taken = self._taken(row)
            for pool in self._pools(f"{row.provider}/{row.key_id}"):
                for zone in zones:
                    for unit, amount in (("requests", taken.requests), ("tokens", taken.tokens)):
                        for name in (
                            day_bucket_id(pool, "", unit, zone),
                            day_bucket_id(pool, row.model, unit, zone),
                        ):
                            if name in amounts:
                                amounts[name] += amount
        return amounts

    def _taken(self, row: Started) -> Charge:
        """Returns what these calls take: what was booked at their start; what the provider counts, where their usage is known."""
        provider = self._providers.get(row.provider)
        tokens = row.larger
        if provider is not None and type(provider).settled in _SUMMED:
            usage = Usage(row.input_tokens, row.output_tokens, row.cached_tokens)
            tokens = sound(provider.settled(Charge(row.calls, row.booked, row.booked, row.booked), usage)).tokens
        return Charge(row.calls, row.open_booked + max(0, tokens))
