"""`truckllm submit`: puts a file into the queue and prints the batch's number. It doesn't wait for anything."""

from __future__ import annotations

from typing import Annotated

import typer

from models.config import Config
from models.config_file import load_config
from models.money import DEFAULT_CURRENCY
from models.wording import counted
from submit.batch_options import BatchOptions
from submit.bell import live_workers
from submit.cli.inputs import InputArgument, takes_batch_options
from submit.cli.options import ConfigOption, CurrencyOption, JsonOption, MaxCostOption, NewOption, cap, stored
from submit.cli.output import note, print_json, say
from submit.obstacles import lost_lanes, lost_sentence
from submit.producer import submit_with


@takes_batch_options
def submit(
    file: InputArgument,
    *,
    config: ConfigOption = None,
    options: BatchOptions,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What people call the batch; else the file's name.")
    ] = None,
    priority: Annotated[int, typer.Option(metavar="N", help="Higher goes first.")] = 0,
    max_cost: MaxCostOption = None,
    currency: CurrencyOption = DEFAULT_CURRENCY,
    new: NewOption = False,
    json: JsonOption = False,
) -> None:
    """Put a file into the queue and print the batch's number.

    Every line is checked first; if one is bad, nothing is enqueued. The same file with the same options finds its batch, also when
    that is completed. --json: {batch_id, total, found ("new", "resumed", "completed" or "joined"), warnings}.
    """
    settings = load_config(config, secrets=False)
    done = submit_with(
        options, file, config=settings, name=name, priority=priority, new=new, cap=cap(max_cost, currency)
    )
    for warning in done.warnings:
        note(f"warning: {warning}")
    if json:
        print_json(
            {"batch_id": done.batch_id, "total": done.total, "found": done.found, "warnings": list(done.warnings)}
        )
        return
    how = {
        "new": "enqueued",
        "resumed": "found, and stays paused" if done.paused else "found, and goes on",
        "completed": f"completed before, so nothing was enqueued: `truckllm results {done.batch_id}` writes its results, "
        f"`truckllm rerun {done.batch_id}` repeats what failed, --new asks and pays for everything anew",
        "joined": "found, just submitted by another process",
    }
    note(f"batch {done.batch_id}: {counted(done.total, 'job')}, {how[done.found]}")
    if done.found != "completed" and not done.paused:
        _say_who_works(settings, done.batch_id)
    say(str(done.batch_id))


def _say_who_works(config: Config, batch_id: int) -> None:
    """What a person should know who has just submitted: lanes that nobody can serve, and who works on the batch."""
    with stored(config) as database, database.read() as connection:
        lost, _ = lost_lanes(connection, batch_id, config)
        serving = live_workers(connection, database.now(connection))
    if lost:
        note(f"warning: {lost_sentence(batch_id, lost)}")
    if config.redis_url:
        return
    if serving:
        note(f"a worker here works on it already; `truckllm status {batch_id} --watch` shows how far it is")
    else:
        note("`truckllm worker` works on it, here; `truckllm run FILE` submits and works in one go")
