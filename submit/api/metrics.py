"""Metrics for Prometheus, read from the database: what all workers together did, whichever of them are still there.

It keeps running sums of calls whose story is over, so that a scrape reads only the last minutes of the ledger, however long it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.engine import Connection

from models.config import Config
from models.database import Database
from models.day_limits import DayUse, day_uses, standing_waits
from models.learning import of_keys, once_a_pool
from models.money import decimal_amount
from models.states import JobStatus
from models.store import keys, learned, traffic, workers
from models.store.traffic import BUCKETS_MS, TOKENS, Label, Sums
from submit.bell import is_live
from submit.obstacles import quarantined
from submit.progress import snapshot

SETTLED_SECONDS = 30.0
"""A call that started before then, and before every call under way, is counted for good."""
SHOWN_COOLDOWNS = 200
SHOWN_LEARNED = 200
SHOWN_DAYS = 500
SHOWN_BATCHES = 50
"""Unfinished batches that get rows of their own; the number of series must not grow without end."""


class CallSums:
    """All calls of the ledger, summed by Label. `longest` is how many seconds a call can take before it counts as abandoned."""

    def __init__(self, database: Database, longest: float) -> None:
        self._database = database
        self._longest = longest
        self._lock = threading.Lock()
        self._settled: dict[Label, Sums] = {}
        self._until = 0.0

    def read(self) -> dict[Label, Sums]:
        """The sums as of now."""
        with self._lock, self._database.read() as connection:
            now = self._database.now(connection)
            abandoned = now - self._longest
            oldest = traffic.first_open(connection, abandoned)
            settled = max(self._until, min(now - SETTLED_SECONDS, now if oldest is None else oldest))
            for label, sums in traffic.ended(connection, self._until, settled, abandoned):
                self._settled[label] = self._settled[label] + sums if label in self._settled else sums
            self._until = settled
            found = dict(self._settled)
            for label, sums in traffic.ended(connection, settled, now + 1e9, abandoned):
                found[label] = found[label] + sums if label in found else sums
            return found


class LedgerCollector(Collector):
    """What prometheus_client asks at each scrape."""

    def __init__(self, database: Database, config: Config) -> None:
        self._database = database
        self._config = config
        longest = max((provider.timeout_seconds for provider in config.providers), default=0.0)
        self._calls = CallSums(database, 2 * longest + 60.0)
        self._days: list[DayUse] = []
        self._days_until = 0.0

    def describe(self) -> list[Metric]:
        return []  # or registering would read the database

    def collect(self) -> Iterator[Metric]:
        yield from call_metrics(self._calls.read())
        with self._database.read() as connection:
            now = self._database.now(connection)
            yield from _batch_metrics(connection, self._config, now)
            yield from _key_metrics(connection, self._config, now)
            yield from _worker_metrics(connection, now)
            yield from _day_metrics(self._day_uses(connection, now))

    def _day_uses(self, connection: Connection, now: float) -> list[DayUse]:
        """Returns the limits by day with their use, read again at most a tenth of the time: it reads all calls of the day."""
        if (began := time.monotonic()) >= self._days_until:
            uses = {use.limit: use for its in day_uses(connection, self._config, now).values() for use in its}
            self._days = list(uses.values())[:SHOWN_DAYS]
            self._days_until = time.monotonic() + 9 * (time.monotonic() - began)
        return self._days


def call_metrics(sums: Mapping[Label, Sums]) -> Iterator[Metric]:
    """Counters and the latency histogram of calls."""
    by = ("provider", "key", "model")
    calls = CounterMetricFamily("truckllm_calls", "Calls to providers that ended", labels=(*by, "outcome", "error"))
    tokens = CounterMetricFamily("truckllm_tokens", "Tokens of these calls, by kind", labels=(*by, "kind"))
    cost = CounterMetricFamily(
        "truckllm_cost", "Cost of these calls, in units of the currency", labels=(*by, "currency")
    )
    unpriced = CounterMetricFamily(
        "truckllm_unpriced_tokens",
        "Tokens of calls that are in no cost: something that they used has no price",
        labels=by,
    )
    latency = HistogramMetricFamily("truckllm_call_duration_seconds", "From sending to the last byte", labels=by)
    used: dict[tuple[str, str, str], Sums] = {}
    spent: dict[tuple[str, str, str, str], int] = {}
    without: dict[tuple[str, str, str], int] = {}
    for label, group in sums.items():
        place = (label.provider, label.key_id, label.model)
        calls.add_metric([*place, label.outcome, label.error_code], group.calls)
        used[place] = used[place] + group if place in used else group
        if label.currency:
            money = (*place, label.currency)
            spent[money] = spent.get(money, 0) + group.cost_nanos
        elif used_tokens := group.tokens[0] + group.tokens[1]:
            without[place] = without.get(place, 0) + used_tokens
    for place, group in used.items():
        for name, number in zip(TOKENS, group.tokens, strict=True):
            tokens.add_metric([*place, name.removesuffix("_tokens")], number)
        bounds = [(str(bound / 1000), within) for bound, within in zip(BUCKETS_MS, group.within, strict=True)]
        latency.add_metric([*place], [*bounds, ("+Inf", group.timed)], sum_value=group.latency_ms / 1000)
    for money, nanos in spent.items():
        cost.add_metric([*money], float(decimal_amount(nanos)))
    for place, number in without.items():
        unpriced.add_metric([*place], number)
    return iter((calls, tokens, cost, unpriced, latency))


def _batch_metrics(connection: Connection, config: Config, now: float) -> Iterator[Metric]:
    states = GaugeMetricFamily("truckllm_batches", "Batches by status", labels=["status"])
    for status, number in traffic.batches_by_status(connection).items():
        states.add_metric([status], number)
    yield states
    done = GaugeMetricFamily("truckllm_jobs_ended", "Jobs of all batches that are still stored", labels=["status"])
    for status, number in traffic.ended_jobs(connection).items():
        done.add_metric([status], number)
    yield done
    running = GaugeMetricFamily("truckllm_jobs_running", "Jobs that workers hold, by provider", labels=["provider"])
    for provider, number in traffic.under_way(connection).items():
        running.add_metric([provider], number)
    yield running
    open_jobs = GaugeMetricFamily("truckllm_batch_jobs", "Jobs of unfinished batches", labels=["batch", "status"])
    stuck = GaugeMetricFamily(
        "truckllm_batch_stuck", "1: blocked or paused, a person has to act", labels=["batch", "why"]
    )
    for number in traffic.unfinished(connection, SHOWN_BATCHES):
        seen = snapshot(connection, number, config, now)
        parts = {
            JobStatus.QUEUED: seen.queued,
            JobStatus.RUNNING: seen.running,
            JobStatus.SUCCEEDED: seen.succeeded,
            JobStatus.FAILED: seen.failed,
            JobStatus.CANCELLED: seen.cancelled,
        }
        for name, jobs in parts.items():
            open_jobs.add_metric([str(number), name], jobs)
        if seen.stuck:
            stuck.add_metric([str(number), seen.status], 1)
    yield open_jobs
    yield stuck


def _key_metrics(connection: Connection, config: Config, now: float) -> Iterator[Metric]:
    by = ("provider", "key")
    usable = GaugeMetricFamily("truckllm_key_usable", "1: in use; 0: quarantined or disabled", labels=by)
    limits = GaugeMetricFamily("truckllm_key_limit", "Configured limits a minute", labels=(*by, "kind"))
    used = GaugeMetricFamily(
        "truckllm_key_last_minute", "Calls started and tokens booked in the last 60 s", labels=(*by, "kind")
    )
    out = quarantined(config, keys.everything(connection))
    for provider in config.providers:
        for key in provider.keys:
            usable.add_metric([provider.id, key.id], 0 if (provider.id, key.id) in out else 1)
            for name, limit in key.limits().items():
                limits.add_metric([provider.id, key.id, name.removeprefix("limit_").removesuffix("_per_min")], limit)
    for provider_id, key_id, calls, tokens in traffic.last_minute(connection, now):
        used.add_metric([provider_id, key_id, "requests"], calls)
        used.add_metric([provider_id, key_id, "booked_tokens"], tokens)
    yield usable
    yield limits
    yield used
    waits = GaugeMetricFamily(
        "truckllm_cooldown_seconds",
        "Seconds left of a wait over 30 s that a provider has asked for, or until a limit by day resets; model empty: all models",
        labels=("pool", "model"),
    )
    for wait in standing_waits(connection, config, now)[:SHOWN_COOLDOWNS]:
        waits.add_metric([wait.pool.removeprefix("pool:"), wait.model], wait.until - now)
    yield waits
    found = GaugeMetricFamily(
        "truckllm_learned_limit",
        "Limits of the server that were found to be below the configured ones: requests and tokens a minute, calls at once",
        labels=("pool", "model", "limit"),
    )
    lower = once_a_pool(of_keys(config.providers, learned.everything(connection, now)))
    for _, of_model, its in lower[:SHOWN_LEARNED]:
        for one in its:
            found.add_metric([of_model.pool.removeprefix("pool:"), of_model.model, one.kind], one.learned)
    yield found


def _day_metrics(uses: list[DayUse]) -> Iterator[Metric]:
    by = ("pool", "model", "kind")
    limits = GaugeMetricFamily("truckllm_day_limit", "Configured limits a day; model empty: all models", labels=by)
    used = GaugeMetricFamily("truckllm_day_used", "Calls and tokens of the present local day", labels=by)
    for use in uses:
        labels = [use.limit.pool.removeprefix("pool:"), use.limit.model, use.limit.unit]
        limits.add_metric(labels, use.limit.limit)
        used.add_metric(labels, use.used)
    yield limits
    yield used


def _worker_metrics(connection: Connection, now: float) -> Iterator[Metric]:
    alive = GaugeMetricFamily("truckllm_workers", "Worker processes, by whether their heart beats", labels=["alive"])
    rows = [is_live(row, now) for row in workers.everyone(connection)]
    alive.add_metric(["yes"], sum(rows))
    alive.add_metric(["no"], len(rows) - sum(rows))
    yield alive
