"""`truckllm rerun`: puts a batch's jobs that have ended back into the queue; what succeeded is paid twice only by force."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from models.config_file import load_config
from models.database import Database
from models.money import format_money
from models.states import BatchStatus, JobStatus
from models.store import batches, outcomes, reruns
from models.store.reruns import Which
from models.wording import counted
from submit import rerunning
from submit.cli.options import BatchArgument, ConfigOption, stored
from submit.cli.output import note
from submit.cli.steering import wake
from submit.obstacles import resume_command


class Ended(StrEnum):
    """Jobs that can be rerun."""

    FAILED = "failed"
    CANCELLED = "cancelled"
    SUCCEEDED = "succeeded"


def rerun(
    batch: BatchArgument,
    status: Annotated[
        Ended,
        typer.Option(help="Which jobs: those that failed, that were cancelled, or (with --force) that succeeded."),
    ] = Ended.FAILED,
    error: Annotated[
        str | None, typer.Option(help="Only those that failed with this code, as `jobs` shows it.", metavar="CODE")
    ] = None,
    failed_at: Annotated[
        str | None, typer.Option("--from", help="Only those that last went to this provider.", metavar="PROVIDER")
    ] = None,
    asked: Annotated[
        str | None, typer.Option("--from-model", help="Only those that asked for this model.", metavar="MODEL")
    ] = None,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="Only this row; may be given several times.", metavar="CUSTOM_ID")
    ] = None,
    provider: Annotated[
        str | None, typer.Option(metavar="PROVIDER", help="Send them to this provider instead.")
    ] = None,
    route: Annotated[str | None, typer.Option(metavar="ROUTE", help="Send them over this route instead.")] = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Ask for this model instead.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Give up the answers of jobs that have succeeded; they are paid for again.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Put a batch's failed jobs back into the queue, and only those; with --provider, --route or --model they go elsewhere.

    What succeeded stays, and what the jobs have cost so far stays in the ledger: `costs --batch N --by rerun` shows both. A job's
    retries are counted anew. With --status cancelled a cancelled batch runs again.
    """
    settings = load_config(config, secrets=False)
    which = Which(JobStatus(status.value), error, failed_at, asked, tuple(ids or ()))
    with stored(settings) as database:
        with database.read() as connection:
            spent = reruns.spent(connection, batch, which)
        number = rerunning.rerun(
            database, settings, batch, which, provider=provider, route=route, model=model, force=force
        )
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
        note(
            f"so far these have cost {_cost(spent)}; `truckllm costs --batch {batch} --by rerun` shows that and what is added now"
        )
        if row["status"] == BatchStatus.PAUSED:
            note(f"batch {batch} is paused: {resume_command(batch, row['paused_reason'])} lets it go on")
        else:
            wake(database, settings, batch)


def _cost(spent: Sequence[tuple[str, int, int]]) -> str:
    """What calls have cost, with those without a known cost told apart."""
    parts = [format_money(nanos, currency) for currency, _, nanos in spent if currency]
    calls = sum(number for _, number, _ in spent)
    unknown = sum(number for currency, number, _ in spent if not currency)
    return f"{' + '.join(parts) or 'nothing that is known'} in {counted(calls, 'call')}" + (
        f", {unknown:,} of them without a known cost" if unknown else ""
    )


def _none(database: Database, batch_id: int, which: Which) -> str:
    with database.read() as connection:
        counts = batches.counts(connection, batch_id)
    said = f"batch {batch_id} has no {which.status} jobs"
    if not which.all:
        said += " of that kind"
    if which.status is JobStatus.FAILED and counts.cancelled:
        said += f"; `--status cancelled` takes the {counts.cancelled:,} that were cancelled"
    return said
