"""`truckllm verify`: whether a batch's lines, jobs, results and ledger say the same, as a table or JSON; else who doesn't, exit 1.

It mends nothing but counters, and these only when asked to.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from models.database import Database, out_of_circles
from models.errors import ConflictError, StorageError
from models.finalizing import finalize, reconcile
from models.money import format_money
from models.states import BatchStatus, Outcome
from models.store import batches
from models.store.books import Books
from models.store.damage import damaged
from models.store.reconciliation import NAMED
from models.store.recounts import recount
from models.wording import counted
from submit.cli.options import BatchArgument, ConfigOption, JsonOption, found_config, stored
from submit.cli.output import note, print_json, print_table, say

_MAYBE: dict[str, str] = {
    Outcome.UNKNOWN: "no whole reply: maybe billed",
    Outcome.FENCED: "came too late, and was billed",
    Outcome.ABORTED: "given up: maybe billed",
}


def verify(
    batch: BatchArgument,
    config: ConfigOption = None,
    named: Annotated[
        int,
        typer.Option("--named", min=0, help="Name at most so many jobs of each kind that doesn't add up.", metavar="N"),
    ] = NAMED,
    counters: Annotated[
        bool, typer.Option("--recount", help="First count anew, from jobs and ledger, what is only counted along.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Reconcile a batch: do its lines, jobs, results and ledger say the same? Exit code 1 when they don't.

    A batch is completed only when they do. One that is finalizing because they don't is completed by this command once it is
    mended. --json: {batch_id, status, adds_up, total, jobs: {status: number}, results, calls: [{outcome, currency, calls,
    booked_tokens, cost_nanos}], differences: [{check, sentence, number, custom_ids}]}.
    """
    with stored(found_config(config)) as database:
        with database.read() as connection:
            row = batches.get(connection, batch)
        if row["status"] == BatchStatus.DELETING:
            raise ConflictError(f"batch {batch} is being deleted: `truckllm delete {batch}` goes on with that")
        if counters:
            out_of_circles(lambda: _recount(database, batch))
        books = reconcile(database, batch, named=named)
        if books is None:  # nobody asked it to stop
            raise StorageError(f"batch {batch} could not be read to its end")
        completed = (
            books.status == BatchStatus.FINALIZING and not books.differences and finalize(database, batch, at_once=True)
        )
        if json:
            print_json(_as_json(books, BatchStatus.COMPLETED if completed else books.status))
        else:
            _show(books)
            if completed:
                note(f"batch {batch} is completed now")
    raise typer.Exit(1 if books.differences else 0)


def _recount(database: Database, batch: int) -> None:
    with database.read() as connection:
        if damaged(connection, batch):  # there is nothing to count; what it is, is told below
            return
    with database.write() as connection:
        recount(connection, batch)


def _show(books: Books) -> None:
    states = ", ".join(f"{number:,} {status}" for status, number in books.jobs.items()) or "none"
    lines = counted(books.total, "line") if isinstance(books.total, int) else f"{books.total!r} lines"  # damaged
    say(f"batch {books.batch_id} {books.status}: {lines}")
    say(f"jobs: {states}")
    say(f"results: {books.results:,}")
    if books.calls:
        say("")
        print_table(
            ("calls", "number", "cost", ""),
            [
                (
                    one.outcome,
                    f"{one.calls:,}",
                    format_money(one.cost_nanos, one.currency) if one.currency else "-",
                    _MAYBE.get(one.outcome, ""),
                )
                for one in books.calls
            ],
            numbers=("number", "cost"),
        )
    say("")
    if not books.differences:
        say("it all adds up" + (f"; {counted(books.open, 'job')} to go" if books.open else ""))
        return
    say(f"IT DOESN'T ADD UP, in {counted(len(books.differences), 'way')}:")
    for difference in books.differences:
        say(f"  {difference.check}: {difference.sentence}")
        if difference.custom_ids:
            more = difference.number - len(difference.custom_ids)
            say(f"    {', '.join(difference.custom_ids)}" + (f" and {more:,} more" if more > 0 else ""))


def _as_json(books: Books, status: str) -> dict[str, Any]:
    return {
        "batch_id": books.batch_id,
        "status": str(status),
        "adds_up": not books.differences,
        "total": books.total,
        "jobs": dict(books.jobs),
        "results": books.results,
        "calls": [
            {
                "outcome": one.outcome,
                "currency": one.currency or None,
                "calls": one.calls,
                "booked_tokens": one.booked_tokens,
                "cost_nanos": one.cost_nanos if one.currency else None,
            }
            for one in books.calls
        ],
        "differences": [
            {
                "check": one.check,
                "sentence": one.sentence,
                "number": one.number,
                "custom_ids": list(one.custom_ids),
            }
            for one in books.differences
        ],
    }
