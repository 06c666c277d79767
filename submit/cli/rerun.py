"""`truckllm rerun`: puts a batch's failed or cancelled jobs back into the queue; what succeeded is never paid twice."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from models.config_file import load_config
from models.database import Database
from models.states import BatchStatus, JobStatus
from models.store import batches, outcomes
from models.store.reruns import Which
from models.wording import counted
from submit import rerunning
from submit.cli.options import BatchArgument, ConfigOption, stored
from submit.cli.output import note
from submit.cli.steering import wake


class Ended(StrEnum):
    """Jobs that can be rerun."""

    FAILED = "failed"
    CANCELLED = "cancelled"


def rerun(
    batch: BatchArgument,
    status: Annotated[Ended, typer.Option(help="Which jobs: those that failed, or those that were cancelled.")] = (
        Ended.FAILED
    ),
    error: Annotated[
        str | None, typer.Option(help="Only those that failed with this code, as `jobs` shows it.", metavar="CODE")
    ] = None,
    failed_at: Annotated[
        str | None, typer.Option("--from", help="Only those that last went to this provider.", metavar="PROVIDER")
    ] = None,
    provider: Annotated[
        str | None, typer.Option(metavar="PROVIDER", help="Send them to this provider instead.")
    ] = None,
    route: Annotated[str | None, typer.Option(metavar="ROUTE", help="Send them over this route instead.")] = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Ask for this model instead.")] = None,
    config: ConfigOption = None,
) -> None:
    """Put a batch's failed jobs back into the queue, and only those; with --provider, --route or --model they go elsewhere.

    What succeeded stays, and what the jobs have cost so far stays in the ledger. A job's retries are counted anew. With
    --status cancelled a cancelled batch runs again.
    """
    settings = load_config(config, secrets=False)
    which = Which(JobStatus(status.value), error, failed_at)
    with stored(settings) as database:
        number = rerunning.rerun(database, settings, batch, which, provider=provider, route=route, model=model)
        if not number:
            note(_none(database, batch, which))
            return
        with database.read() as connection:
            row = batches.get(connection, batch)
            lanes = sorted(outcomes.queued_lanes(connection, batch))
        elsewhere = provider or route or model
        note(
            f"batch {batch}: {counted(number, f'{status} job')} {'is' if number == 1 else 'are'} queued again"
            + (f" for {', '.join(lanes)}" if elsewhere else "")
        )
        if row["status"] == BatchStatus.PAUSED:
            note(f"batch {batch} is paused: `truckllm resume {batch}` lets it go on")
        else:
            wake(database, settings, batch)


def _none(database: Database, batch_id: int, which: Which) -> str:
    with database.read() as connection:
        counts = batches.counts(connection, batch_id)
    said = f"batch {batch_id} has no {which.status} jobs"
    if which.error_code is not None or which.provider is not None:
        said += " of that kind"
    if which.status is JobStatus.FAILED and counts.cancelled:
        said += f"; `--status cancelled` takes the {counts.cancelled:,} that were cancelled"
    return said
