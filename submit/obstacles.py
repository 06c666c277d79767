"""What keeps a batch from going on, and what to do about it: keys out of use, lanes that are gone, nobody who works.

It reads, and stores nothing: what is derived here ends by itself when a key or a worker comes back.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.engine import Connection, RowMapping

from models.config import Config, KeyConfig, ProviderConfig
from models.day_limits import day_limits, days_of_work
from models.request import FailureKind
from models.store import answering, budgets, keys, outcomes
from submit.bell import live_workers, providers_of
from submit.reachability import never_answered
from submit.troubles import clock

NO_KEY = "no usable key"
"""What is said of a batch that waits for keys begins so."""


def lost_lanes(connection: Connection, batch_id: int, config: Config) -> tuple[list[str], bool]:
    """The lanes of a batch's queued jobs that the configuration doesn't have, and whether these are all its lanes."""
    lanes = outcomes.queued_lanes(connection, batch_id)
    lost = sorted(lane for lane in lanes if not providers_of(config, lane))
    return lost, bool(lost) and len(lost) == len(lanes)


def lost_sentence(batch_id: int, lanes: Sequence[str]) -> str:
    """What to do about lanes that left the configuration."""
    named = f"lane {lanes[0]} is" if len(lanes) == 1 else f"lanes {', '.join(lanes)} are"
    return (
        f"batch {batch_id} has jobs for what is not in this configuration ({named} missing): put it back, or stop the batch with "
        f"`truckllm cancel {batch_id}`, or make a new one with --new"
    )


def unserved(connection: Connection, batch_id: int, config: Config, now: float) -> tuple[str | None, bool]:
    """Which providers no live worker serves that jobs wait for, in a sentence, and whether nothing of the batch is served."""
    serving = live_workers(connection, now)
    if all(provider.id in serving for provider in config.providers):
        return None, False
    lanes = {lane: providers_of(config, lane) for lane in sorted(outcomes.queued_lanes(connection, batch_id))}
    missing = [names for names in lanes.values() if names and serving.keys().isdisjoint(names)]
    if not missing:
        return None, False
    named = dict.fromkeys(" or ".join(names) for names in missing)
    return f"no live worker serves {', '.join(named)}: start `truckllm worker` or `run`", len(missing) == len(lanes)


def left_open(connection: Connection, batch_id: int, now: float) -> str | None:
    """Why a cancelled batch doesn't end, in a sentence; None if somebody lives who ends it."""
    if live_workers(connection, now):
        return None
    return (
        f"no worker lives that could end what had been begun: `truckllm cancel {batch_id}` does where its workers ran, or "
        "the next `truckllm worker`"
    )


def blocked(connection: Connection, batch_id: int, config: Config, now: float) -> str | None:
    """Why no queued job can go anywhere; None if one can, or none is queued, or a call is under way that may be answered."""
    asked = {provider.id for provider in config.providers} & answering.asked_now(connection, batch_id)
    silent = never_answered(connection, asked, config, now)
    if asked - silent.keys():
        return None
    lanes = outcomes.queued_lanes(connection, batch_id)
    if not lanes:
        return None
    waited_for = {name for lane in lanes for name in providers_of(config, lane)}
    silent |= never_answered(connection, waited_for - asked, config, now)
    out = quarantined(config, keys.everything(connection))
    lost, without_key, unanswering = [], [], []
    for lane in sorted(lanes):
        names = providers_of(config, lane)
        if not names:
            lost.append(f"lane {lane} is not in the configuration")
            continue
        providers = [config.provider(name) for name in names]
        usable = [p.id for p in providers if p.id not in silent and any((p.id, key.id) not in out for key in p.keys)]
        if usable == [lane] or (usable and outcomes.waits_for_any(connection, batch_id, lane, usable)):
            return None
        unanswering += [silent[p.id] for p in providers if p.id in silent]
        without_key += [
            f"{p.id}/{key.id}: {out[p.id, key.id]['reason']}{_again(out[p.id, key.id], now)}"
            for p in providers
            for key in p.keys
            if (p.id, key.id) in out
        ]
    if lost or without_key:
        without_key = [f"{NO_KEY}: {'; '.join(dict.fromkeys([*lost, *without_key]))}"]
    return "; ".join(dict.fromkeys([*unanswering, *without_key]))


def quota_days(connection: Connection, batch_id: int, config: Config, left: int) -> float | None:
    """Returns the days that so many calls of a batch take by the limits of requests a day; None where a key that it may use has none."""
    if not any(True for provider in config.providers for key in provider.keys for _ in day_limits(provider, key)):
        return None
    lanes = outcomes.queued_lanes(connection, batch_id)
    return days_of_work(config, [name for lane in lanes for name in providers_of(config, lane)], left)


def _again(row: RowMapping, now: float) -> str:
    """When a quarantined key is tried again, and by whom; for one that rests for its quota, and one that a person took out, the command."""
    enable = f"`truckllm keys enable {row['provider']}/{row['key_id']}`"
    if row["fingerprint"] == keys.ANY_SECRET:
        return f" ({enable} puts it back)"
    until = row["until"]
    if until is None or until <= now:
        return ""
    way_out = f"{enable} once it is paid for" if row["reason"].startswith(FailureKind.QUOTA) else "replace the secret"
    return f" (tried again at {clock(until, now)}, or {way_out})"


def quarantined(config: Config, states: Sequence[RowMapping]) -> dict[tuple[str, str], RowMapping]:
    """The configured keys that are out of use, by (provider, key id), with their rows of models.store.keys."""
    found = {}
    for provider in config.providers:
        for key in provider.keys:
            row = state_of(provider, key, states)
            if row is not None and row["state"] == keys.QUARANTINED:
                found[provider.id, key.id] = row
    return found


def state_of(provider: ProviderConfig, key: KeyConfig, states: Sequence[RowMapping]) -> RowMapping | None:
    """What is known of a key: a person's word, else by its secret's fingerprint, or the latest of its id where the secret isn't known
    here.
    """
    rows = [row for row in states if (row["provider"], row["key_id"]) == (provider.id, key.id)]
    for row in rows:
        if row["fingerprint"] == keys.ANY_SECRET:
            return row
    if key.secret.usable:
        mark = keys.fingerprint(key.secret.reveal())
        rows = [row for row in rows if row["fingerprint"] == mark]
    return max(rows, key=lambda row: float(row["since"]), default=None)


def resume_command(batch_id: int, reason: str | None) -> str:
    """Returns what makes a batch go on that is paused for this reason, its command in backticks: at its cap it needs another one, and
    what can't be capped needs a price."""
    if reason is not None and budgets.NO_PRICE in reason:
        return f"a price in the configuration, then `truckllm resume {batch_id}`,"
    capped = reason is not None and budgets.OF_ITS_CAP in reason
    return f"`truckllm resume {batch_id} --max-cost AMOUNT`" if capped else f"`truckllm resume {batch_id}`"
