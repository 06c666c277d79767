"""What batches, keys and workers look like to programs: the JSON of the commands' --json and of the HTTP API.

It reads nothing; `submit.progress` and `models.store` do.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import RowMapping

from models.config import KeyConfig, ProviderConfig
from models.day_limits import DayUse
from models.days import local_iso
from models.errors import InputError
from models.learning import Lowered
from models.store import keys as key_store
from models.store.cooldowns import Cooldown
from models.store.learned import Learned
from submit.bell import is_live
from submit.cooldowns import of_key
from submit.progress import Part, Snapshot


def iso(seconds: float | None) -> str | None:
    """Unix seconds as "2026-01-31T12:00:00Z"; None stays None."""
    if seconds is None:
        return None
    moment = datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def input_error(error: InputError) -> dict[str, Any]:
    """Bad lines of an input: the first of them, their number, and their causes."""
    return {
        "lines": [{"line": line.number, "reason": line.reason} for line in error.lines],
        "bad_lines": error.count,
        "causes": [
            {"reason": cause.reason, "count": cause.count, "lines": list(cause.lines)} for cause in error.causes
        ],
    }


def batch(seen: Snapshot) -> dict[str, Any]:
    """A batch, with the fields that `truckllm status --json` documents."""
    return {
        "batch_id": seen.batch_id,
        "name": seen.name,
        "input_name": seen.input_name,
        "status": seen.status,
        "total": seen.total,
        "succeeded": seen.succeeded,
        "failed": seen.failed,
        "cancelled": seen.cancelled,
        "empty_answers": seen.empty,
        "running": seen.running,
        "queued": seen.queued,
        "rate": None if seen.rate is None else round(seen.rate, 3),
        "eta_seconds": None if seen.eta_seconds is None else round(seen.eta_seconds, 1),
        "quota_days": None if seen.quota_days is None else round(seen.quota_days, 2),
        "blocked": seen.blocked,
        "paused": seen.paused,
        "problem": seen.problem,
        "unserved": seen.unserved,
        "waiting": seen.waiting,
        "troubles": [trouble.sentence for trouble in seen.troubles],
        "cooldowns": [cooldown(one, seen.now) for one in seen.cooldowns],
        "created_at": iso(seen.created_at),
        "started_at": iso(seen.started_at),
        "finished_at": iso(seen.finished_at),
        "costs": dict(seen.costs),
        "unpriced_tokens": seen.unpriced_tokens,
        "cap": seen.cap and dataclasses.asdict(seen.cap),
        "providers": [_part(part) for part in seen.providers],
        "failures": [
            {"code": group.code, "number": group.number, "id": group.custom_id, "message": group.message}
            for group in seen.failures
        ],
    }


def _part(part: Part) -> dict[str, Any]:
    return {
        "provider": part.provider,
        "succeeded": part.succeeded,
        "failed": part.failed,
        "calls": part.calls,
        "input_tokens": part.input_tokens,
        "output_tokens": part.output_tokens,
        "costs": dict(part.costs),
        "unpriced_tokens": part.unpriced_tokens,
    }


def cooldown(one: Cooldown, now: float) -> dict[str, Any]:
    """A wait that a provider has asked for, or (`configured`) for a limit by day; `model` null: of all its key's models. `seconds` are those
    left."""
    return {
        "key": one.key,
        "pool": one.pool.removeprefix("pool:"),
        "model": one.model or None,
        "reason": one.reason,
        "since": iso(one.since),
        "until": iso(one.until),
        "seconds": round(max(0.0, one.until - now), 1),
        "configured": one.configured,
    }


def jobs(
    rows: Sequence[RowMapping],
    limit: int,
    prompts: Mapping[int, str | None],
    waits: Mapping[int, Cooldown],
    now: float,
) -> dict[str, Any]:
    """Returns a page of at most `limit` jobs; `rows` are one more if there are more. `prompts` are the beginnings of their prompts by the
    number of the job, `waits` what holds back those that wait for it. `next_after` is null on the last page."""
    shown = rows[:limit]
    return {
        "jobs": [job(row, prompts.get(row["id"]), waits.get(row["id"]), now) for row in shown],
        "next_after": shown[-1]["position"] if len(rows) > limit else None,
    }


def job(row: RowMapping, prompt: str | None, wait: Cooldown | None, now: float) -> dict[str, Any]:
    """Returns a job, from a row of `models.store.outcomes.listing`, the beginning of its prompt, and what it waits for; `id` is the line's
    own."""
    failed = row["error_code"] is not None or row["error_message"] is not None
    return {
        "id": row["custom_id"],
        "position": row["position"],
        "status": row["status"],
        "lane": row["lane"],
        "provider": row["provider"],
        "model": row["model"],
        "attempts": row["attempts"],
        "error": {"code": row["error_code"], "message": row["error_message"]} if failed else None,
        "prompt": prompt,
        "not_before": iso(row["not_before"]),
        "cooldown": None if wait is None else cooldown(wait, now),
        "finished_at": iso(row["finished_at"]),
    }


def key(
    provider: ProviderConfig,
    one: KeyConfig,
    state: RowMapping | None,
    cooldowns: Sequence[Cooldown],
    learned: Sequence[tuple[Learned, Sequence[Lowered]]],
    now: float,
    days: Sequence[DayUse] = (),
) -> dict[str, Any]:
    """A key with its row of `models.store.keys`, if any, those of all standing `cooldowns` that concern it, what is `learned` of its
    limits, and what is used of those by day; never its secret."""
    return {
        "provider": provider.id,
        "key_id": one.id,
        "pool": pool(provider, one),
        "state": state["state"] if state else key_store.ACTIVE,
        "reason": state["reason"] if state else "",
        "since": iso(state["since"]) if state else None,
        "until": iso(state["until"]) if state else None,
        "cooldowns": [cooldown(found, now) for found in of_key(provider, one, cooldowns)],
        "learned": [learned_limits(found, limits) for found, limits in learned],
        "days": [day_use(found) for found in days],
    }


def day_use(one: DayUse) -> dict[str, Any]:
    """Returns a limit by day with what is used of it; `model` null: of all models."""
    limit = one.limit
    return {
        "model": limit.model or None,
        "unit": limit.unit,
        "limit": limit.limit,
        "used": one.used,
        "zone": limit.zone,
        "since": iso(one.start),
        "resets": iso(one.resets),
        "resets_local": local_iso(limit.zone, one.resets),
    }


def learned_limits(one: Learned, limits: Sequence[Lowered]) -> dict[str, Any]:
    """Returns what is learned of a model on a pool, with the configured limits beside it; null where it lowers nothing."""
    lower = {limit.name: limit for limit in limits}
    names = ("requests_per_min", "tokens_per_min", "in_flight")
    return {
        "model": one.model,
        **{name: round(lower[name].learned, 1) if name in lower else None for name in names},
        "configured": {name: lower[name].configured if name in lower else None for name in names[:2]},
        "updated_at": iso(one.updated_at),
    }


def pool(provider: ProviderConfig, one: KeyConfig) -> str:
    """The quota that a key draws on, by name."""
    return one.pool or f"{provider.id}/{one.id}"


def worker(row: RowMapping, now: float) -> dict[str, Any]:
    """A worker's row; `alive` is false when its last heartbeat is older than 45 s or, on this machine, its process is gone."""
    return {
        "id": row["id"],
        "host": row["host"],
        "pid": row["pid"],
        "providers": [name for name in row["queues"].split(",") if name],
        "alive": is_live(row, now),
        "draining": bool(row["draining"]),
        "tickets": row["tickets"],
        "config_hash": row["config_hash"],
        "alone_for": row["alone_for"],
        "started_at": iso(row["started_at"]),
        "heartbeat_at": iso(row["heartbeat_at"]),
    }
