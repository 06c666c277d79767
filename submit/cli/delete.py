"""`truckllm delete` and `truckllm prune`: prompts and replies of batches that have ended go; the ledger stays."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from models.database import Database
from models.errors import ConflictError, UsageError
from models.states import BatchStatus
from models.store import batches, removals
from models.wording import counted
from submit.bell import live_workers
from submit.cli.options import BatchArgument, ConfigOption, found_config, stored
from submit.cli.output import note
from submit.removal import remove, room, stop

_SECONDS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}


def delete(
    batch: BatchArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Cancel it first if it is unfinished, and wait for calls under way.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Delete a batch, or what an interrupted submission has left: its prompts and replies are gone for good. What its calls cost
    stays in `costs`."""
    with stored(found_config(config)) as database:
        with database.read() as connection:
            row = batches.get(connection, batch)
        if force and row["finished_at"] is None:
            stop(database, batch, _Waiting(database, batch))
        number = remove(database, batch)
        if number is None:
            why = "being loaded by a process that lives" if row["status"] == BatchStatus.LOADING else row["status"]
            raise ConflictError(f"batch {batch} is unfinished ({why}): wait for its end, or `--force` cancels it first")
        _done(database, f"batch {batch} with its {counted(number, 'job')} is deleted; its calls stay in the ledger")


def prune(
    older_than: Annotated[str, typer.Option(help="Ended so long ago: 30d, 12h, 8w.", metavar="AGE")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which ones.")] = False,
    config: ConfigOption = None,
) -> None:
    """Delete all batches that have ended so long ago, and submissions that were interrupted so long ago. What their calls cost stays
    in `costs`."""
    seconds = _age(older_than)
    with stored(found_config(config)) as database:
        with database.read() as connection:
            ids = removals.ended_before(connection, database.now(connection) - seconds)
            named = [(batch_id, batches.get(connection, batch_id)["name"]) for batch_id in ids]
        for batch_id, name in named:
            if dry_run:
                note(f"would delete batch {batch_id} ({name})")
            else:
                note(f"batch {batch_id} ({name}): {counted(remove(database, batch_id) or 0, 'job')} deleted")
        if dry_run or not named:
            note(f"{len(named)} batches ended more than {older_than} ago")
        else:
            _done(database, f"{len(named)} batches are deleted; their calls stay in the ledger")


def _done(database: Database, said: str) -> None:
    database.forget()
    note(said)
    note(room(database))


class _Waiting:
    """Says once that calls are under way."""

    def __init__(self, database: Database, batch: int) -> None:
        self._database = database
        self._batch = batch
        self._said = False

    def __call__(self, calls: int) -> None:
        if not self._said:
            with self._database.read() as connection:
                lost = not live_workers(connection, self._database.now(connection))
            note(
                f"{counted(calls, 'call')} under way: paid for, so the end is awaited for the ledger (after Ctrl-C "
                f"`truckllm delete {self._batch}` goes on)"
            )
            if lost:
                note("no worker lives that could end what had been begun: start `truckllm worker`")
        self._said = True


def _age(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text.strip().lower())
    if match is None:
        raise UsageError(f"--older-than {text!r}: give hours, days or weeks, such as 12h, 30d or 8w")
    return float(match[1]) * _SECONDS[match[2]]
