"""Calls in a ledger, for the tests of what is counted."""

from __future__ import annotations

from collections.abc import Sequence

from models.database import Database
from models.states import JobStatus
from models.store import attempts as attempt_store
from models.store import endings
from tests.making import USAGE, announcement, claim, ending, make_batch, make_worker


def calls(database: Database, ago: Sequence[float], *, end: bool = True) -> None:
    """A call that many seconds ago each; the last one fails, the others succeed."""
    make_batch(database, len(ago))
    worker = make_worker(database)
    for number, seconds in enumerate(ago):
        job = claim(database, worker, most=1)[0]
        call = announcement(job, key_id="oa-1")
        with database.write() as connection:
            now = database.now(connection)
            attempt_store.announce(connection, [call], now - seconds)
            if end:
                failed = number == len(ago) - 1
                status = JobStatus.FAILED if failed else JobStatus.SUCCEEDED
                endings.record(connection, [ending(call, status, usage=None if failed else USAGE)], 0, now)
