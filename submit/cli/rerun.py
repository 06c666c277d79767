"""`truckllm rerun`: puts a batch's failed or cancelled jobs back into the queue; what succeeded is never paid twice."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError

from models.config import Config
from models.config_file import load_config
from models.database import Database
from models.errors import ConflictError, UsageError
from models.lanes import Lanes, NoLane
from models.states import BatchStatus, JobStatus
from models.store import batches, outcomes, reruns
from models.store.reruns import Kind, Which
from models.wording import counted
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
    place = _placed(settings, provider, route, model)
    with stored(settings) as database:
        with database.read() as connection:
            row = batches.get(connection, batch)
            kinds = reruns.kinds(connection, batch, which)
        _refuse_unfinished(row)
        if not kinds:
            note(_none(database, batch, which))
            return
        if place is not None:
            for kind in kinds:  # all of them before anything is changed
                place(kind)
        number = _queue(database, row, which, place)
        with database.read() as connection:
            lanes = sorted(outcomes.queued_lanes(connection, batch))
        note(
            f"batch {batch}: {counted(number, f'{status} job')} {'is' if number == 1 else 'are'} queued again"
            + (f" for {', '.join(lanes)}" if place else "")
        )
        if row["status"] == BatchStatus.PAUSED:
            note(f"batch {batch} is paused: `truckllm resume {batch}` lets it go on")
        else:
            wake(database, settings, batch)


def _placed(
    config: Config, provider: str | None, route: str | None, model: str | None
) -> Callable[[Kind], tuple[str, str]] | None:
    """Where each kind of job goes instead; None when all stay where they are. It raises UsageError for one that can't go there."""
    if provider is None and route is None and model is None:
        return None
    if route is not None and model is not None:
        raise UsageError("--route and --model: a route's candidates name their models; keep one of them")
    lanes = Lanes(config)

    def place(kind: Kind) -> tuple[str, str]:
        try:
            return lanes.resolve(model=model or kind.model, provider=provider, route=route, dialect=kind.dialect)
        except NoLane as refused:
            asked = f"model {kind.model}" if kind.model else "a model that its route names"
            raise UsageError(f"a job in lane {kind.lane} for {asked}: {refused}; nothing was changed") from None

    return place


def _refuse_unfinished(row: RowMapping) -> None:
    if row["status"] not in (*reruns.MAY_RERUN, BatchStatus.CANCELLED):
        raise ConflictError(f"batch {row['id']} is {row['status']}: it has no jobs to rerun")
    if row["status"] == BatchStatus.CANCELLED and row["loader"] is not None:
        raise ConflictError(f"batch {row['id']} was cancelled while it was being loaded: submit the file again")
    if row["status"] == BatchStatus.CANCELLED and row["finished_at"] is None:
        raise ConflictError(f"batch {row['id']} is being cancelled, and calls are still under way: wait for its end")


def _queue(database: Database, row: RowMapping, which: Which, place: Callable[[Kind], tuple[str, str]] | None) -> int:
    number, chunk = 0, -1
    # only the first chunk wakes a cancelled batch: one that is cancelled in between stays so
    revive = row["status"] == BatchStatus.CANCELLED
    while chunk:
        try:
            with database.write() as connection:
                chunk = reruns.rerun(connection, row["id"], which, place=place, revive=revive)
        except IntegrityError:
            raise ConflictError(
                f"another batch works on the same file with the same options: wait until it has finished "
                f"(`truckllm status`), then rerun batch {row['id']}"
            ) from None
        number += chunk
        revive = False
    return number


def _none(database: Database, batch_id: int, which: Which) -> str:
    with database.read() as connection:
        counts = batches.counts(connection, batch_id)
    said = f"batch {batch_id} has no {which.status} jobs"
    if which.error_code is not None or which.provider is not None:
        said += " of that kind"
    if which.status is JobStatus.FAILED and counts.cancelled:
        said += f"; `--status cancelled` takes the {counts.cancelled:,} that were cancelled"
    return said
