"""`truckllm status`: the last batches, or how far one is."""

from __future__ import annotations

from typing import Annotated

import typer

from models.store import batches
from models.wording import duration
from submit import shapes
from submit.cli.options import ConfigOption, JsonOption, found_config, known, stored
from submit.cli.output import note, print_json, print_table, say, terminal_width
from submit.lines import failures, line, money
from submit.progress import Snapshot, snapshot, watch
from submit.shapes import iso

_LISTED = 20


def status(
    batch: Annotated[
        int | None, typer.Argument(help="A batch's number; without it, the last 20.", metavar="BATCH", callback=known)
    ] = None,
    config: ConfigOption = None,
    watching: Annotated[
        bool, typer.Option("--watch", help="Stay until the batch is finished, paused or blocked, or doesn't add up.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show batches, or how far one is.

    --json: {batch_id, name, input_name, status, total, succeeded, failed, cancelled, empty_answers, running, queued, rate (jobs a second), eta_seconds, quota_days (that the rest takes by the limits of requests a day, or null),
    blocked (reason or null), paused (reason or null), problem (what doesn't add up, or null), unserved (who no live worker serves, or null), waiting (why calls are held back, or null), troubles (sentences on
    providers that fail just now), cooldowns ([{key, pool, model (null: all), reason, since, until, seconds left, configured}]: waits over 30 s that providers ask for, and limits by day that are used up), created_at, started_at, finished_at, costs ({currency: nano-units}), unpriced_tokens, cap ({most, spent,
    reserved, assumed, currency}: nano-units, or null), providers: [{provider,
    succeeded, failed, calls, input_tokens, output_tokens, costs, unpriced_tokens}], failures: [{code, number, id, message}]}; without BATCH {"batches": [the same, …]}. Status is
    loading, queued, running, paused, blocked, finalizing, completed, cancelled or deleting. With --watch the exit code is that of `run`.
    """
    settings = found_config(config)
    with stored(settings) as database:
        if watching:
            if batch is None:
                raise typer.BadParameter("--watch needs a BATCH")
            from submit.live import LiveView  # what draws isn't paid for by those who only look

            with LiveView() as view:
                seen = watch(database, batch, config=settings, on_tick=view.show)
            if json:
                print_json(shapes.batch(seen))
            raise typer.Exit(seen.exit_code)
        with database.read() as connection:
            now = database.now(connection)
            ids = [batch] if batch is not None else [row["id"] for row in batches.newest_first(connection, _LISTED)]
            found = [snapshot(connection, number, settings, now, count_failures=batch is not None) for number in ids]
        if json:
            shown = [shapes.batch(seen) for seen in found]
            print_json(shown[0] if batch is not None else {"batches": shown})
        elif batch is not None:
            _show_one(found[0])
        elif found:
            _show_many(found)
        else:
            note("no batches yet: `truckllm run FILE` makes the first")


def _show_one(seen: Snapshot) -> None:
    say(line(seen, terminal_width()))
    if seen.providers:
        say("")
        print_table(
            ("provider", "succeeded", "failed", "calls", "tokens in", "tokens out", "cost so far"),
            [
                (
                    part.provider,
                    f"{part.succeeded:,}",
                    "?" if part.failed is None else f"{part.failed:,}",
                    f"{part.calls:,}",
                    f"{part.input_tokens:,}",
                    f"{part.output_tokens:,}",
                    money(part.costs, part.unpriced_tokens),
                )
                for part in seen.providers
            ],
            numbers=("succeeded", "failed", "calls", "tokens in", "tokens out", "cost so far"),
        )
    if seen.failures:
        say("\n".join(["", *failures(seen, terminal_width())]))


def _show_many(found: list[Snapshot]) -> None:
    print_table(
        ("batch", "status", "done", "total", "failed", "rate", "ETA", "cost so far", "created", "name"),
        [
            (
                seen.batch_id,
                seen.status,
                f"{seen.ended:,}",
                f"{seen.total:,}",
                f"{seen.failed:,}",
                "" if seen.finished or seen.rate is None else f"{seen.rate:.3g}/s",
                "" if seen.eta_seconds is None else duration(seen.eta_seconds),
                money(seen.costs, seen.unpriced_tokens),
                iso(seen.created_at),
                seen.name,
            )
            for seen in found
        ],
        numbers=("batch", "done", "total", "failed", "rate", "cost so far"),
    )
    for remark in dict.fromkeys(remark for seen in found if not seen.paused for remark in seen.remarks):
        note(remark)
