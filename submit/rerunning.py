"""Rerunning a batch's jobs that have ended, where they were or elsewhere. The command and the HTTP API share it.

It prints nothing, and touches what succeeded only by force.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError

from models.config import Config
from models.database import Database
from models.errors import ConflictError, UsageError
from models.lanes import Lanes, NoLane
from models.states import TERMINAL, UNFINISHED, BatchStatus, JobStatus
from models.store import batches, reruns
from models.store.reruns import Kind, Which
from models.wording import counted
from submit.rescue import end_cancelled


def rerun(
    database: Database,
    config: Config,
    batch_id: int,
    which: Which,
    *,
    provider: str | None = None,
    route: str | None = None,
    model: str | None = None,
    force: bool = False,
) -> int:
    """Queues these jobs again, for another provider, route or model if one is named; how many there were.

    Jobs that have succeeded lose their answers and are paid for again, so that needs `force`. Raises NotFoundError, UsageError (they
    can't go there; nothing was changed), ConflictError (the batch is in no state for it, or another works on the same file).
    """
    if which.status not in TERMINAL:
        raise UsageError(
            f"jobs that are {which.status} haven't ended: those that failed, succeeded or were cancelled can be rerun"
        )
    if which.status is JobStatus.SUCCEEDED and not force:
        raise ConflictError(
            "jobs that have succeeded keep their answers: asked again they are paid for again, and may mean something else; "
            "--force gives the answers up (what they cost stays in the ledger). Nothing was changed"
        )
    with database.read() as connection:
        row = batches.get(connection, batch_id)
    if row["status"] == BatchStatus.CANCELLED and row["finished_at"] is None:
        end_cancelled(database, batch_id)  # what is left of it may be in dead hands only
    with database.read() as connection:
        row = batches.get(connection, batch_id)
        place = _placed(config, provider, route, model, alone=bool(row["no_fallback"]))
        kinds = reruns.kinds(connection, batch_id, which) if place else ()
    _refuse_unfinished(row)
    if place:
        for kind in kinds:  # all of them before anything is changed
            place(kind)
    return _queue(database, row, which, place)


def _placed(
    config: Config, provider: str | None, route: str | None, model: str | None, *, alone: bool
) -> Callable[[Kind], tuple[str, str]] | None:
    """Where each kind of job goes instead; None when all stay where they are. It raises UsageError for one that can't go there.
    `alone`: of a route only its first candidate is asked."""
    if provider is None and route is None and model is None:
        return None
    if route is not None and model is not None:
        raise UsageError("--route and --model: a route's candidates name their models; keep one of them")
    lanes = Lanes(config)
    try:
        lanes.check(provider=provider, route=route)
    except NoLane as unknown:
        raise UsageError(str(unknown)) from None

    def place(kind: Kind) -> tuple[str, str]:
        try:
            return lanes.resolve(
                model=lanes.name_at(provider, model or kind.model),
                provider=provider,
                route=route,
                dialect=kind.dialect,
                operation=kind.operation,
                alone=alone,
            )
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
    number, last = 0, -1
    # only the first chunk wakes a cancelled batch: one that is cancelled in between stays so
    revive = row["status"] == BatchStatus.CANCELLED
    with database.read() as connection:
        began = database.now(connection)
    while True:
        try:
            with database.write() as connection:
                chunk = reruns.rerun(connection, row["id"], which, place=place, revive=revive, before=began, after=last)
        except IntegrityError:
            raise ConflictError(_in_the_way(database, row, number)) from None
        if not chunk.number and last < 0:
            return number
        number += chunk.number
        last = chunk.last  # at the end once more from the start, for what somebody held a moment
        revive = False


def _in_the_way(database: Database, row: RowMapping, queued: int) -> str:
    """Why a batch can't run again just now, and what to do: one file with one set of options has one unfinished batch."""
    with database.read() as connection:
        others = [
            other["id"]
            for other in batches.same_file(connection, row["input_sha256"])
            if other["id"] != row["id"]
            and (other["options_hash"], other["again"]) == (row["options_hash"], row["again"])
            and other["status"] in UNFINISHED
        ]
    named = f"batch {others[0]}" if others else "another batch"
    way_out = (
        f"wait for its end, or `truckllm cancel {others[0]}`" if others else "wait for its end (`truckllm status`)"
    )
    return (
        f"{named} works on the same file with the same options, and two of them would pay for the same rows: {way_out}; "
        f"then rerun batch {row['id']}. "
        + (f"{counted(queued, 'job')} of it had been queued again before" if queued else "Nothing was changed")
    )
