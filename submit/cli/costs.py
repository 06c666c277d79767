"""`truckllm costs`: tokens and money from the ledger, by what you like."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from models.errors import StorageError
from models.store import batches, ledger
from submit.cli.options import ConfigOption, JsonOption, found_config, known, stored
from submit.cli.output import note, print_table, say
from submit.metadata_costs import PREFIX, spent_by
from submit.reports import DEFAULT_BY, as_csv, as_json, as_table, as_text, dimensions, period_between, report


class Format(StrEnum):
    """How a report is written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def costs(
    batch: Annotated[int | None, typer.Option(help="Only this batch.", metavar="BATCH", callback=known)] = None,
    by: Annotated[
        str,
        typer.Option(
            help="Any of provider, model, key, batch, day (UTC), rerun (before or since it), price and metadata.FIELD, with commas between.",
            metavar="BY",
        ),
    ] = ",".join(DEFAULT_BY),
    since: Annotated[
        str | None,
        typer.Option(help="Only calls from then on: a date (UTC) or a time such as 2026-01-31T12:00Z.", metavar="TIME"),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="Only calls before then, a date's own day not included.", metavar="TIME"),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to write it.")] = Format.TABLE,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="A file; else stdout.", metavar="OUT")] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Report tokens and money, by what you like; every call that left is counted.

    A period holds the calls that left in it: --since is part of it, --until isn't, and both are UTC.
    Money for failed calls that were billed, calls that are maybe billed (no whole reply came), calls without a price and calls whose
    usage wasn't told are shown apart. Currencies are never added up. JSON: {by, rows, totals, notes}; the rows hold the dimensions, currency, cost (decimal text),
    failed_but_billed_cost, calls, succeeded, input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens,
    failed_but_billed_calls, unknown_calls, unknown_booked_tokens, unknown_known_cost, open_calls, unpriced_calls, unpriced_tokens,
    untold_calls, reported_calls, reported_cost_usd and reported_calls_cost_usd (what the providers themselves say that calls cost, and
    what is counted for these calls).
    """
    names = dimensions(by)
    period = period_between(since, until)
    notes: list[str] = []
    with stored(found_config(config)) as database:
        if any(name.startswith(PREFIX) for name in names):
            spent, notes = spent_by(database, names, batch_id=batch, period=period)
        else:
            with database.read() as connection:
                spent = ledger.spent(connection, names, batch_id=batch, period=period)
        if batch is not None and not spent:  # the ledger outlives a batch
            with database.read() as connection:
                batches.get(connection, batch)
    if not spent and (since or until):
        notes = [*notes, "no calls were made in this period"]
    found = report(names, spent, notes)
    if json or form is Format.JSON:
        text = as_json(found)
    elif form is Format.CSV:
        text = as_csv(found).rstrip("\n")
        for sentence in found.notes:
            note(sentence)
    elif out is None and sys.stdout.isatty() and found.rows:
        columns, rows = as_table(found)
        print_table(columns, rows, numbers=columns[len(found.by) :])
        text = "\n".join(found.notes)
        if not text:
            return
    else:
        text = as_text(found)
    if out is None:
        say(text)
        return
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{out}: {error.strerror or error}") from None
    note(f"{out} is written")
