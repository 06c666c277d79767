"""`truckllm jobs`: lists a batch's jobs in input order."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.engine import RowMapping

from models.states import JobStatus
from models.store import batches, outcomes
from models.wording import counted
from submit import cooldowns, shapes
from submit.cli.options import BatchArgument, ConfigOption, JsonOption, found_config, stored
from submit.cli.output import note, print_json, print_table, say
from submit.exports import STDOUT
from submit.stored_inputs import export_failed, prompts_of

_MOST = 1 << 62
"""No batch has so many jobs, and every database knows such numbers."""


class State(StrEnum):
    """What `jobs` shows as a job's state: those of the store, and `snoozed` for a queued one that waits for a time."""

    QUEUED = "queued"
    SNOOZED = "snoozed"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


def jobs(
    batch: BatchArgument,
    status: Annotated[
        State | None,
        typer.Option(
            metavar="STATE",
            help="Only jobs in this state: queued (snoozed ones too), snoozed, running, succeeded, failed or cancelled.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=_MOST, metavar="N", help="How many at most.")] = 100,
    after: Annotated[
        int,
        typer.Option(
            min=-1, max=_MOST, metavar="POSITION", help="Only those behind this position, the first of which is 0."
        ),
    ] = -1,
    export_failed_to: Annotated[
        Path | None,
        typer.Option(
            "--export-failed",
            metavar="FILE",
            help="Write the lines that failed to FILE (- is stdout), as an input for `run` or `submit`, instead of listing them.",
        ),
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List a batch's jobs, in the order of the input. A queued job that waits for a time is shown as snoozed.

    --json: {"next_after": position or null on the last page, "jobs": [{id, position (from 0), status, lane, provider, model, attempts, error {code, message} or null,
    prompt (its beginning, or null), not_before, finished_at, cooldown {key, pool, model (null: all), reason, since, until, seconds left} or null: what
    a queued job waits for}]}; `id` is the line's own. With --export-failed {"path", "lines"}.
    """
    if export_failed_to is not None:
        with stored(found_config(config)) as database:
            lines, left_out = export_failed(database, batch, export_failed_to)
        if left_out:
            note(
                f"{counted(left_out, 'failed line')} could not be written: nothing is stored of a bad line in a vendor's form"
            )
        to_stdout = str(export_failed_to) == STDOUT
        if json and not to_stdout:
            print_json({"path": str(export_failed_to), "lines": lines})
        else:
            written = counted(lines, "failed line")
            note(f"{written} of batch {batch}" if to_stdout else f"{export_failed_to} holds {written} of batch {batch}")
        return
    settings = found_config(config)
    with stored(settings) as database, database.read() as connection:
        batches.get(connection, batch)
        rows = outcomes.listing(
            connection,
            batch,
            status=None if status is None else JobStatus.QUEUED if status is State.SNOOZED else JobStatus(status.value),
            snoozed=status is State.SNOOZED,
            after=after,
            most=limit + 1,
        )
        prompts = prompts_of(connection, rows[:limit])
        now = database.now(connection)
        waits = cooldowns.of_jobs(connection, rows, settings, now)
    page = shapes.jobs(rows, limit, prompts, waits, now)
    more, rows = len(rows) > limit, rows[:limit]
    if json:
        print_json(page)
    elif rows:
        print_table(
            ("position", "id", "status", "lane", "provider", "model", "attempts", "error", "prompt"),
            [
                (
                    row["position"],
                    row["custom_id"],
                    State.SNOOZED if row["not_before"] is not None else row["status"],
                    row["lane"],
                    row["provider"],
                    row["model"],
                    row["attempts"],
                    _error(row),
                    prompts.get(row["id"]) or "",
                )
                for row in rows
            ],
            numbers=("position", "attempts"),
            cut=("id", "error", "prompt"),
        )
    else:
        note(
            f"batch {batch} has no {f'{status} ' if status else ''}jobs{f' behind position {after}' if after >= 0 else ''}"
        )
    if not json:
        for sentence in dict.fromkeys(map(cooldowns.sentence, waits.values())):
            say(sentence)
    if more:
        note(f"… and more; --limit shows more than {limit}, and --after {page['next_after']} the next")


def _error(row: RowMapping) -> str:
    if row["error_code"] is None:
        return ""
    message = " ".join((row["error_message"] or "").split())
    return f"{row['error_code']}: {message}"
