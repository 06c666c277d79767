"""`truckllm status`: the last batches, or how far one is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from models.store import batches
from submit.cli.options import ConfigOption, JsonOption, found_config, stored
from submit.cli.output import iso, note, print_json, print_table, say, terminal_width
from submit.live import LiveView, duration, line, money
from submit.progress import Part, Snapshot, snapshot, watch

_LISTED = 20


def status(
    batch: Annotated[
        int | None, typer.Argument(help="A batch's number; without it, the last 20.", metavar="BATCH")
    ] = None,
    config: ConfigOption = None,
    watching: Annotated[
        bool, typer.Option("--watch", help="Stay until the batch is finished, paused or blocked.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show batches, or how far one is.

    --json: {batch_id, name, input_name, status, total, succeeded, failed, cancelled, running, queued, rate (jobs a second), eta_seconds,
    blocked (reason or null), paused (reason or null), unserved (who no live worker serves, or null), troubles (sentences on providers that
    fail just now), created_at, started_at, finished_at, costs ({currency: nano-units}), unpriced_tokens, providers: [{provider,
    succeeded, failed, calls, input_tokens, output_tokens, costs, unpriced_tokens}]}; without BATCH {"batches": [the same, …]}. Status is
    loading, queued, running, paused, blocked, completed, cancelled or deleting. With --watch the exit code is that of `run`.
    """
    settings = found_config(config)
    with stored(settings) as database:
        if watching:
            if batch is None:
                raise typer.BadParameter("--watch needs a BATCH")
            with LiveView() as view:
                seen = watch(database, batch, config=settings, on_tick=view.show)
            if json:
                print_json(as_json(seen))
            raise typer.Exit(seen.exit_code)
        with database.read() as connection:
            now = database.now(connection)
            ids = [batch] if batch is not None else [row["id"] for row in batches.newest_first(connection, _LISTED)]
            found = [snapshot(connection, number, settings, now) for number in ids]
    if json:
        print_json(as_json(found[0]) if batch is not None else {"batches": [as_json(seen) for seen in found]})
    elif batch is not None:
        _show_one(found[0])
    elif found:
        _show_many(found)
    else:
        note("no batches yet: `truckllm run FILE` makes the first")


def as_json(seen: Snapshot) -> dict[str, Any]:
    """The snapshot with the fields that `truckllm status --json` documents."""
    return {
        "batch_id": seen.batch_id,
        "name": seen.name,
        "input_name": seen.input_name,
        "status": seen.status,
        "total": seen.total,
        "succeeded": seen.succeeded,
        "failed": seen.failed,
        "cancelled": seen.cancelled,
        "running": seen.running,
        "queued": seen.queued,
        "rate": None if seen.rate is None else round(seen.rate, 3),
        "eta_seconds": None if seen.eta_seconds is None else round(seen.eta_seconds, 1),
        "blocked": seen.blocked,
        "paused": seen.paused,
        "unserved": seen.unserved,
        "troubles": [trouble.sentence for trouble in seen.troubles],
        "created_at": iso(seen.created_at),
        "started_at": iso(seen.started_at),
        "finished_at": iso(seen.finished_at),
        "costs": dict(seen.costs),
        "unpriced_tokens": seen.unpriced_tokens,
        "providers": [_part(part) for part in seen.providers],
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
