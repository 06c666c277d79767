"""What the ledger saw start in the last minute, by the limits' buckets: with this a Redis begins that doesn't know it.

It goes by the calls alone, never by limits: whose limits hold is `worker.ruling`'s, how a bucket begins the limiter's business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import RowMapping

from models.request import Usage
from models.store import attempts as attempt_store
from worker.bookings import sound
from worker.limits.shapes import UNITS, Charge, Unit
from worker.providers.base import Provider
from worker.recorder import Recorder

log = logging.getLogger("truckllm.last_minute")

SECONDS = 62.0
"""A window, the second that calls are granted ahead, and one that their announcement is early."""
ANNOUNCED = 1.0
"""By how many seconds a call may start later than the ledger says: it is written down just before."""


@dataclass(frozen=True, slots=True)
class Started:
    """A call of the last minute. `name` is "provider/key_id", `age` in seconds, `taken` what it takes from limits by all that is known."""

    name: str
    model: str
    age: float
    taken: Charge


class LastMinute:
    """`providers` are all that this process knows, by id; `pools` tells those that a key may draw on."""

    def __init__(
        self, recorder: Recorder, providers: Mapping[str, Provider], pools: Callable[[str], Collection[str]]
    ) -> None:
        self._recorder = recorder
        self._providers = providers
        self._pools = pools

    async def of(self, wanted: Sequence[str]) -> dict[str, list[tuple[float, int]]]:
        """For each of these buckets that had calls: their (age in seconds, amount). Raises StorageError."""
        now = self._recorder.now()
        rows = await self._recorder.call(lambda connection: attempt_store.started_since(connection, now - SECONDS))
        return by_bucket(wanted, [self._started(row, now) for row in rows], self._pools)

    def _started(self, row: RowMapping, now: float) -> Started:
        age = max(0.0, now - row["started_at"] - ANNOUNCED)
        return Started(f"{row['provider']}/{row['key_id']}", row["requested_model"], age, self._taken(row))

    def _taken(self, row: RowMapping) -> Charge:
        """What was booked at the start; what the provider counts, once the usage is known."""
        number = row["booked_tokens"]
        booked = Charge(1, number, number, number)
        provider = self._providers.get(row["provider"])
        if row["input_tokens"] is None or row["output_tokens"] is None:
            return booked
        usage = Usage(row["input_tokens"], row["output_tokens"], row["cached_tokens"] or 0)
        if provider is not None:
            try:
                return sound(provider.settled(booked, usage))
            except Exception:
                log.exception("provider %s failed to tell what a call took", row["provider"])
        most = max(number, usage.total_tokens)
        return Charge(1, most, most, most)


def by_bucket(
    wanted: Sequence[str], calls: Sequence[Started], pools: Callable[[str], Collection[str]]
) -> dict[str, list[tuple[float, int]]]:
    """What calls mean for these buckets: bucket id → (age, amount)."""
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in wanted}
    where: dict[tuple[str, str], list[tuple[str, Unit]]] = {}
    for call in calls:
        buckets = where.get((call.name, call.model))
        if buckets is None:
            named = [
                (name, unit)
                for pool in pools(call.name)
                for unit in UNITS
                for name in (f"{pool}|{unit}", f"{pool}|{call.model}|{unit}")
            ]
            buckets = where[call.name, call.model] = [(name, unit) for name, unit in named if name in found]
        for name, unit in buckets:
            if amount := max(0, int(call.taken.of(unit))):
                found[name].append((call.age, amount))
    return {name: calls_of for name, calls_of in found.items() if calls_of}
