"""`truckllm pause`, `resume` and `priority`: whether a batch is worked on, and how soon.

They change one row each; workers look at it before they claim and before they send.
"""

from __future__ import annotations

from typing import Annotated

import typer

from models.config import Config
from models.database import Database
from models.errors import UsageError
from models.money import DEFAULT_CURRENCY
from models.states import BatchStatus
from models.store import batches, budgets, outcomes
from submit.cli.options import BatchArgument, ConfigOption, CurrencyOption, MaxCostOption, cap, found_config, stored
from submit.cli.output import note
from submit.producer import call_workers

BY_HAND = "paused by hand"


def pause(batch: BatchArgument, config: ConfigOption = None) -> None:
    """Stop a batch for now: within two seconds nothing more of it is sent; calls under way finish and are kept.

    `truckllm resume` goes on with it.
    """
    with stored(found_config(config)) as database, database.write() as connection:
        row = batches.get(connection, batch)
        if not batches.pause(connection, batch, BY_HAND):
            if row["status"] != BatchStatus.PAUSED:
                raise UsageError(f"batch {batch} is {row['status']}: only one that is queued or running can be paused")
            note(f"batch {batch} is paused already: {row['paused_reason']}")
            return
    note(f"batch {batch} is paused; `truckllm resume {batch}` goes on with it")


def resume(
    batch: BatchArgument,
    config: ConfigOption = None,
    max_cost: MaxCostOption = None,
    currency: CurrencyOption = DEFAULT_CURRENCY,
) -> None:
    """Go on with a paused batch. A worker has to run, or `truckllm run` with the same file.

    A batch that was paused by its cap goes on until the new one; what it has cost so far counts.
    """
    settings = found_config(config)
    limit = cap(max_cost, currency)
    with stored(settings) as database:
        with database.write() as connection:
            row = batches.get(connection, batch)
            if limit:
                budgets.cap(connection, batch, *limit)
            if not batches.resume(connection, batch):
                raise UsageError(f"batch {batch} is {row['status']}, not paused")
        note(f"batch {batch} goes on")
        wake(database, settings, batch)


def priority(
    batch: BatchArgument,
    number: Annotated[int, typer.Argument(help="Higher goes first; 0 is usual.", metavar="N")],
    config: ConfigOption = None,
) -> None:
    """Put a batch before others, or behind them (`-- -1`). Batches of lower priority still get a small share."""
    with stored(found_config(config)) as database, database.write() as connection:
        row = batches.get(connection, batch)
        if not batches.set_priority(connection, batch, number):
            raise UsageError(f"batch {batch} has ended already: it is {row['status']}")
    note(f"batch {batch}: priority {number} (before: {row['priority']})")


def wake(database: Database, settings: Config | None, batch_id: int) -> None:
    """Rings for a batch's queued jobs where a Redis URL is configured; says who works on them elsewhere."""
    if settings is None or not settings.redis_url:
        note("`truckllm worker` works on it, here; so does `truckllm run` with the same file")
        return
    with database.read() as connection:
        lanes = outcomes.queued_lanes(connection, batch_id)
        left = batches.counts(connection, batch_id).left
    for warning in call_workers(database, settings, dict.fromkeys(lanes, left), settings.redis_url):
        note(f"warning: {warning}")
