"""`truckllm workers`: the worker processes, as their heartbeats tell, and telling one to end."""

from __future__ import annotations

from typing import Annotated

import typer

from models.errors import NotFoundError
from models.store import workers as worker_store
from models.wording import counted
from submit import shapes
from submit.cli.options import ConfigOption, JsonOption, found_config, stored
from submit.cli.output import note, print_json, print_table

workers = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


@workers.command()
def drain(
    worker: Annotated[int, typer.Argument(help="The worker's number, as `workers` lists it.", metavar="WORKER")],
    config: ConfigOption = None,
) -> None:
    """Tell a worker to end: it claims nothing more, finishes its calls, gives the rest back, and isn't started again."""
    with stored(found_config(config)) as database, database.write() as connection:
        if not 0 < worker < 1 << 63 or not worker_store.drain(connection, worker):
            raise NotFoundError(f"there is no worker {worker}; `truckllm workers` lists them")
    note(f"worker {worker} hears of it at its next heartbeat, ends its calls, and exits")


@workers.callback()
def listing(context: typer.Context, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show the worker processes; `workers drain` ends one.

    --json: {"workers": [{id, host, pid, providers, alive, draining, tickets (Celery messages taken), config_hash, alone_for (the worker
    that started it to run suspects apart), started_at, heartbeat_at}]}. `alive` is false when the last heartbeat is older than 45 s or, on this machine, its process is gone, `draining` true when it was told to end.
    """
    if context.invoked_subcommand is not None:
        return
    with stored(found_config(config)) as database, database.read() as connection:
        now = database.now(connection)
        rows = worker_store.everyone(connection)
    found = [shapes.worker(row, now) for row in rows]
    if json:
        print_json({"workers": found})
        return
    if not found:
        note("no worker is running: `truckllm worker` starts one")
        return
    live = [row for row in found if row["alive"]]
    newest = max(live, key=lambda row: int(row["id"]), default=None)
    differ = {row["id"] for row in live if newest is not None and row["config_hash"] != newest["config_hash"]}
    print_table(
        ("worker", "host", "pid", "providers", "alive", "tickets", "config", "started"),
        [
            (
                row["id"],
                row["host"],
                row["pid"],
                ",".join(row["providers"]) + (f" (suspects, for {row['alone_for']})" if row["alone_for"] else ""),
                ("draining" if row["draining"] else "yes") if row["alive"] else "no",
                row["tickets"],
                row["config_hash"][:8] + (" differs" if row["id"] in differ else ""),
                row["started_at"],
            )
            for row in found
        ],
        numbers=("worker", "pid", "tickets"),
    )
    if newest is not None and differ:
        note(
            f"warning: {counted(len(differ), 'live worker runs', 'live workers run')} with another configuration than worker "
            f"{newest['id']}, the last one that started, whose limits hold for all; restart those that differ"
        )
