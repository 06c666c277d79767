"""Brings a batch whose last job has ended to its end: completed when lines, jobs, results and ledger say the same, and not before.

It compares nothing itself (`models.store.reconciliation` does) and is called by workers, and by a person through `verify`.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable

from models.database import Database
from models.states import BatchStatus
from models.store import batches, finals, jobs
from models.store.books import Books
from models.store.reconciliation import NAMED, Reconciliation

log = logging.getLogger("truckllm.finalizing")

SIGN_SECONDS = 3.0
"""How often a finalizer shows that it lives."""


def ended(database: Database, batch_id: int) -> bool:
    """Looks whether a batch has reached its end, in transactions after the one that ended a job. True: it is to be finalized now.

    What came back into the queue of a cancelled batch while that was being cancelled is cancelled, too.
    """
    with database.read() as connection:
        found = batches.progress(connection, batch_id)
    if found is None:
        return False
    status, left = found
    if status == BatchStatus.CANCELLED and left > 0:
        with database.write(hurried=True) as connection:
            left -= jobs.cancel_queued(connection, batch_id, database.now(connection))
    if left > 0:
        return False
    with database.write(hurried=True) as connection:
        return batches.finish_if_done(connection, batch_id, database.now(connection))


def reconcile(
    database: Database,
    batch_id: int,
    *,
    named: int = NAMED,
    unpacking: bool = True,
    between: Callable[[], bool] = lambda: True,
) -> Books | None:
    """What a batch's books say at this moment, read in one snapshot. None when `between`, asked after each chunk, says stop.

    With `unpacking` all its answers are read, too, which takes most of the time. Raises NotFoundError.
    """
    found = Reconciliation(batch_id, named, unpacking=unpacking)
    with database.snapshot() as connection:
        found.begin(connection)
        while found.chunk(connection):
            if not between():
                return None
        return found.end(connection)


def finalize(
    database: Database,
    batch_id: int,
    *,
    at_once: bool = False,
    ending: Callable[[], bool] = lambda: False,
) -> bool:
    """Completes a batch that is finalizing if its books are right; else it stays as it is, with the problem. Whether it is completed.

    Does nothing when another finalizer is at it (unless `at_once`). `ending` is asked now and then whether to leave it to others.
    """
    mark = secrets.token_hex(8)
    with database.write(hurried=True) as connection:
        if not finals.take_over(connection, batch_id, mark, database.now(connection), at_once=at_once):
            return False
    signed = time.monotonic()

    def sign() -> bool:
        nonlocal signed
        if ending():
            return False
        if time.monotonic() - signed < SIGN_SECONDS:
            return True
        signed = time.monotonic()
        with database.write(hurried=True) as connection:
            return finals.touch(connection, batch_id, mark, database.now(connection))

    # what has just been written isn't damaged yet, and others wait for the end
    books = reconcile(database, batch_id, unpacking=False, between=sign)
    if books is None:
        return False
    with database.write(hurried=True) as connection:
        now = database.now(connection)
        if not books.differences:
            return finals.complete(connection, batch_id, mark, now)
        if books.open and finals.go_on(connection, batch_id, mark):
            return False
        if finals.refuse(connection, batch_id, mark, books.sentence, now):
            log.error(
                "batch %d is not completed, because its books don't add up (`truckllm verify %d` shows more): %s",
                batch_id,
                batch_id,
                books.sentence,
            )
    return False
