"""How far a batch is: snapshots read in constant time, and watching one until it is done.

It does not draw; `submit.live` does. `blocked` is derived here, never stored: it ends by itself when a key comes back.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection, RowMapping

from models.config import Config
from models.database import Database, storage_errors
from models.errors import StorageError
from models.states import RUNNABLE, BatchStatus
from models.store import batches, budgets, jobs, ledger, outcomes
from models.store.cooldowns import Cooldown
from models.store.outcomes import FailureGroup
from submit import cooldowns, obstacles
from submit.troubles import Trouble, troubles

BLOCKED = "blocked"
BLOCKED_SECONDS = 5.0
"""A batch that has been blocked for so long is given up by those who wait for it."""

FIRST_ANSWERS = "waiting for the first answers, because of the cap"
"""Until these have proven what calls cost, only a few of a capped batch may be under way."""

_RATE_SECONDS = 10.0
_SLOW_RATE_SECONDS = 60.0
_COUNTED_FAILURES = 20_000
"""Failed jobs are counted by provider and error code up to so many, unless more is asked for: that read grows with them."""


@dataclass(frozen=True, slots=True)
class Part:
    """One provider's part of a batch so far. `failed` is None where it would cost too much to know.

    `costs` are nano-units by currency, never added up across them; `unpriced_tokens` were used without a configured price.
    """

    provider: str
    succeeded: int
    failed: int | None
    calls: int
    input_tokens: int
    output_tokens: int
    costs: tuple[tuple[str, int], ...]
    unpriced_tokens: int


@dataclass(frozen=True, slots=True)
class Cap:
    """What a batch may cost, in nano-units of a currency. `spent` includes `assumed`: the reservations of calls whose cost nobody
    knows. `reserved` is for calls under way."""

    most: int
    spent: int
    reserved: int
    assumed: int
    currency: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A batch at one moment. `status` is models.states.BatchStatus, or "blocked" with its reason in `blocked`; `paused` is why it is
    paused, `problem` what doesn't add up in a batch that is finalizing for that reason.

    `rate` is jobs a second of late, `eta_seconds` what is left at that rate; None: not known. `blocked_seconds` counts only
    while somebody watches. `unserved` says which providers no live worker serves, `troubles` which of them fail just now. `waiting` is
    why calls that could start are held back. `failures` are the
    most frequent error codes of its failed jobs; empty while counting them would cost too much.
    """

    batch_id: int
    name: str
    input_name: str
    status: str
    total: int
    succeeded: int
    failed: int
    cancelled: int
    running: int
    providers: tuple[Part, ...]
    created_at: float
    started_at: float | None
    finished_at: float | None
    now: float
    rate: float | None = None
    eta_seconds: float | None = None
    blocked: str | None = None
    blocked_seconds: float = 0.0
    paused: str | None = None
    problem: str | None = None
    unserved: str | None = None
    troubles: tuple[Trouble, ...] = ()
    cap: Cap | None = None
    waiting: str | None = None
    failures: tuple[FailureGroup, ...] = ()
    cooldowns: tuple[Cooldown, ...] = ()
    """Waits of more than 30 s that providers have asked for, on the keys that its queued jobs may go to."""
    quota_days: float | None = None
    """Days that the rest takes by the configured limits of requests a day; None: some key has none."""
    empty: int = 0
    """Of those that succeeded, the answers that hold nothing."""

    @property
    def ended(self) -> int:
        return self.succeeded + self.failed + self.cancelled

    @property
    def queued(self) -> int:
        return max(0, self.total - self.ended - self.running)

    @property
    def finished(self) -> bool:
        """Whether every job has ended and been counted, and it all adds up."""
        return self.finished_at is not None

    @property
    def stuck(self) -> bool:
        """Whether work is left that nobody does until a person acts."""
        return self.status in (BLOCKED, BatchStatus.PAUSED) or self.problem is not None

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences on what keeps the batch from going on, or slows it."""
        return tuple(
            filter(
                None,
                (
                    self.blocked,
                    self.paused,
                    self.problem
                    and f"its books don't add up, `truckllm verify {self.batch_id}` tells more: {self.problem}",
                    self.unserved,
                    self.waiting,
                    self._quota,
                    *map(cooldowns.sentence, self.cooldowns),
                    *(trouble.sentence for trouble in self.troubles),
                ),
            )
        )

    @property
    def _quota(self) -> str | None:
        if self.quota_days is None or self.quota_days <= 1 or self.finished:
            return None
        return f"{self.quota_days:,.1f} days at the configured limits of requests a day"

    @property
    def costs(self) -> tuple[tuple[str, int], ...]:
        """Nano-units by currency, over all providers."""
        sums: dict[str, int] = {}
        for part in self.providers:
            for currency, nanos in part.costs:
                sums[currency] = sums.get(currency, 0) + nanos
        return tuple(sorted(sums.items()))

    @property
    def unpriced_tokens(self) -> int:
        return sum(part.unpriced_tokens for part in self.providers)

    @property
    def exit_code(self) -> int:
        """0 all succeeded, 1 some did not, 3 blocked or paused, 4 its books don't add up."""
        if self.problem is not None:
            return StorageError.exit_code
        if self.stuck:
            return 3
        return 0 if self.finished and self.succeeded == self.total else 1


def snapshot(
    connection: Connection, batch_id: int, config: Config | None, now: float, *, count_failures: bool = False
) -> Snapshot:
    """The batch as it stands; the same few reads at any size. Without `config` nobody can say whether it is blocked.

    `now` is the database's. `count_failures` counts failed jobs by provider and code also where they are many. Raises NotFoundError.
    """
    row = batches.get(connection, batch_id)
    counts = batches.counts(connection, batch_id)
    running = jobs.in_flight(connection, batch_id)
    rate = None
    if row["status"] in RUNNABLE and row["started_at"] is not None:
        seconds = max(1.0, min(_SLOW_RATE_SECONDS, now - row["started_at"]))
        rate = ledger.calls_since(connection, batch_id, now - seconds) / seconds
    status, blocked = str(row["status"]), None
    if config is not None and status in RUNNABLE and counts.left > 0:
        blocked = obstacles.blocked(connection, batch_id, config, now)
        status = BLOCKED if blocked else status
    unserved = None
    if config is not None and status in RUNNABLE and counts.left > 0:
        unserved, idle = obstacles.unserved(connection, batch_id, config, now)
        rate = 0.0 if idle else rate
    if status == BatchStatus.CANCELLED and row["finished_at"] is None:
        unserved = obstacles.left_open(connection, batch_id, now)
    quota_days = None
    if config is not None and status in RUNNABLE and counts.left > 0:
        quota_days = obstacles.quota_days(connection, batch_id, config, counts.left)
    cap = _cap(connection, batch_id)
    held_back = cap is not None and 0 < running < counts.left and status in RUNNABLE
    by_provider: dict[str, int] | None = {}
    failures: list[FailureGroup] = []
    if counts.failed > _COUNTED_FAILURES and not count_failures:
        by_provider = None
    elif counts.failed:
        by_provider, failures = outcomes.failures(connection, batch_id)
    return Snapshot(
        batch_id=batch_id,
        name=row["name"],
        input_name=row["input_name"],
        status=status,
        total=counts.total,
        succeeded=counts.succeeded,
        failed=counts.failed,
        cancelled=counts.cancelled,
        empty=counts.empty,
        running=running,
        providers=_parts(connection, batch_id, by_provider),
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        now=now,
        rate=rate,
        eta_seconds=None if unserved else _eta(counts.left, rate, quota_days),
        quota_days=quota_days,
        blocked=blocked,
        paused=(row["paused_reason"] or "paused") if status == BatchStatus.PAUSED else None,
        problem=row["problem"] if status == BatchStatus.FINALIZING else None,
        unserved=unserved,
        troubles=troubles(connection, batch_id, config, now) if row["status"] in RUNNABLE else (),
        cap=cap,
        waiting=FIRST_ANSWERS if held_back and budgets.waits_for_answers(connection, batch_id) else None,
        failures=tuple(failures),
        cooldowns=cooldowns.of_batch(connection, batch_id, config, now)
        if row["status"] in RUNNABLE and counts.left > 0
        else (),
    )


def _cap(connection: Connection, batch_id: int) -> Cap | None:
    row = budgets.get(connection, batch_id)
    if row is None:
        return None
    most, spent, reserved = (int(row[name]) for name in ("most_nanos", "spent_nanos", "reserved_nanos"))
    return Cap(most, spent, reserved, int(row["assumed_nanos"] or 0), row["currency"])


def watch(
    database: Database,
    batch_id: int,
    *,
    config: Config | None = None,
    until_done: Callable[[Snapshot], bool] | None = None,
    on_tick: Callable[[Snapshot], None] | None = None,
    on_error: Callable[[StorageError], None] | None = None,
    interval: float = 0.5,
) -> Snapshot:
    """Looks at a batch every `interval` seconds until `until_done` says so, by default `done`; the last snapshot.

    `on_error` is told when the database can't be read; it is tried again then, unless `on_error` raises. Raises NotFoundError,
    StorageError.
    """
    pace = Pace()
    while True:
        try:
            with storage_errors(database), database.read() as connection:
                seen = snapshot(connection, batch_id, config, database.now(connection))
        except StorageError as error:
            if on_error is None:
                raise
            on_error(error)
            time.sleep(interval)
            continue
        seen = pace.of(seen, time.monotonic())
        if on_tick is not None:
            on_tick(seen)
        if (until_done or done)(seen):
            return seen
        time.sleep(interval)


def done(seen: Snapshot) -> bool:
    """Whether there is nothing to wait for: finished, paused with nothing in flight, blocked for some seconds, or with a problem."""
    if seen.finished or seen.problem is not None or seen.blocked_seconds >= BLOCKED_SECONDS:
        return True
    return seen.paused is not None and not seen.running


class Pace:
    """What a single snapshot can't know: how fast jobs have ended of late, and for how long the batch has been blocked."""

    def __init__(self) -> None:
        self._ended: deque[tuple[float, int]] = deque()
        self._blocked_since: float | None = None

    def of(self, seen: Snapshot, clock: float) -> Snapshot:
        """The snapshot with rate, ETA and seconds of being blocked. `clock` is monotonic seconds."""
        if seen.blocked is None:
            self._blocked_since = None
        elif self._blocked_since is None:
            self._blocked_since = clock
        if self._ended and seen.ended < self._ended[-1][1]:
            self._ended.clear()  # a rerun has put failed jobs back
        self._ended.append((clock, seen.ended))
        while self._ended[0][0] < clock - _SLOW_RATE_SECONDS:
            self._ended.popleft()
        rate = self._rate(clock)
        if rate is None:
            rate = seen.rate
        return dataclasses.replace(
            seen,
            rate=rate,
            eta_seconds=None if seen.unserved else _eta(seen.total - seen.ended, rate, seen.quota_days),
            blocked_seconds=0.0 if self._blocked_since is None else clock - self._blocked_since,
        )

    def _rate(self, clock: float) -> float | None:
        """Over the last 10 s; over up to 60 s while few jobs end; None before a second has passed."""
        newest = self._ended[-1][1]
        for seconds in (_RATE_SECONDS, _SLOW_RATE_SECONDS):
            then, ended = next(entry for entry in self._ended if entry[0] >= clock - seconds)
            if newest - ended >= 20:
                break
        return (newest - ended) / (clock - then) if clock - then >= 1.0 else None


def _eta(left: int, rate: float | None, quota_days: float | None) -> float | None:
    """Returns the seconds that are left at this rate; where limits by day make it more than a day, those by the limits."""
    if left > 0 and quota_days is not None and quota_days > 1:
        return max(quota_days * 86_400, left / rate if rate else 0.0)
    return left / rate if rate and left > 0 else None


def _parts(connection: Connection, batch_id: int, by_provider: dict[str, int] | None) -> tuple[Part, ...]:
    spend = batches.spend(connection, batch_id)
    rows: dict[str, list[RowMapping]] = {}
    for row in spend:
        rows.setdefault(row["provider"], []).append(row)
    names = sorted({*rows, *(name for name in by_provider or {} if name)})
    return tuple(
        _part(name, rows.get(name, []), None if by_provider is None else by_provider.get(name, 0)) for name in names
    )


def _part(provider: str, rows: Sequence[RowMapping], failed: int | None) -> Part:
    def total(column: str, priced: bool | None = None) -> int:
        return sum(int(row[column]) for row in rows if priced is None or bool(row["currency"]) == priced)

    return Part(
        provider=provider,
        succeeded=total("succeeded"),
        failed=failed,
        calls=total("calls"),
        input_tokens=total("input_tokens"),
        output_tokens=total("output_tokens"),
        costs=tuple((row["currency"], int(row["cost_nanos"])) for row in rows if row["currency"]),
        unpriced_tokens=total("input_tokens", False) + total("output_tokens", False),
    )
