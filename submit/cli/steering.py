"""`truckllm pause`, `resume` and `priority`: whether a batch is worked on, and how soon. `submit.steering` does it."""

from __future__ import annotations

from typing import Annotated

import typer

from models.config import Config
from models.database import Database
from models.money import DEFAULT_CURRENCY
from submit import steering
from submit.cli.options import BatchArgument, ConfigOption, CurrencyOption, MaxCostOption, cap, found_config, stored
from submit.cli.output import note


def pause(batch: BatchArgument, config: ConfigOption = None) -> None:
    """Stop a batch for now: within two seconds nothing more of it is sent; calls under way finish and are kept.

    `truckllm resume` goes on with it.
    """
    with stored(found_config(config)) as database:
        already = steering.pause(database, batch)
    if already is not None:
        note(f"batch {batch} is paused already: {already}")
    else:
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
        steering.resume(database, batch, limit)
        note(f"batch {batch} goes on")
        wake(database, settings, batch)


def priority(
    batch: BatchArgument,
    number: Annotated[int, typer.Argument(help="Higher goes first; 0 is usual.", metavar="N")],
    config: ConfigOption = None,
) -> None:
    """Put a batch before others, or behind them (`-- -1`). Batches of lower priority still get a small share."""
    with stored(found_config(config)) as database:
        before = steering.prioritise(database, batch, number)
    note(f"batch {batch}: priority {number} (before: {before})")


def wake(database: Database, settings: Config | None, batch_id: int) -> None:
    """Rings for a batch's queued jobs, and says what people should know of it."""
    for sentence in steering.wake(database, settings, batch_id):
        note(sentence)
