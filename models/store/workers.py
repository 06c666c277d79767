"""Workers: registered, beating, seen dead. A heartbeat is the lease of all jobs that its worker runs."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from models import processes
from models.database import SCHEMA
from models.tables import workers


def register(
    connection: Connection,
    *,
    host: str,
    boot_id: str,
    pid: int,
    pid_started: float,
    queues: Sequence[str],
    config_hash: str,
    now: float,
    alone_for: int | None = None,
) -> int:
    """A new worker's number; numbers are never used again. `alone_for`: the worker that has started it to run suspects."""
    inserted = connection.execute(
        workers.insert().values(
            host=host,
            boot_id=boot_id,
            pid=pid,
            pid_started=pid_started,
            queues=",".join(queues),
            config_hash=config_hash,
            started_at=now,
            heartbeat_at=now,
            alone_for=alone_for,
            schema=SCHEMA,
        )
    )
    key = inserted.inserted_primary_key
    assert key is not None
    return int(key[0])


def beat(connection: Connection, worker_id: int, tickets: int, now: float) -> bool:
    """One heartbeat. False when others have declared this worker dead: its jobs are not its own any more."""
    done = connection.execute(
        workers.update()
        .where(workers.c.id == worker_id)
        .values(beat=workers.c.beat + 1, heartbeat_at=now, tickets=tickets)
    )
    return done.rowcount == 1


def drain(connection: Connection, worker_id: int) -> bool:
    """Tells a worker to finish what it has and to end; it reads that at its next heartbeat. False when there is none of that number."""
    done = connection.execute(workers.update().where(workers.c.id == worker_id).values(draining=1))
    return done.rowcount == 1


def told_to_drain(connection: Connection, worker_id: int) -> bool:
    """Whether `drain` was called for this worker."""
    query = sa.select(workers.c.draining).where(workers.c.id == worker_id)
    return bool(connection.execute(query).scalar_one_or_none())


def everyone(connection: Connection) -> list[RowMapping]:
    """All workers that are alive or not yet known to be dead."""
    return list(connection.execute(sa.select(workers).order_by(workers.c.id)).mappings())


def is_gone(row: RowMapping) -> bool:
    """Whether a worker was a process of this very machine and boot, and is no more. Of another machine nobody can say so here."""
    if (row["host"], row["boot_id"]) != (processes.host(), processes.boot_id()):
        return False
    return not processes.alive(row["pid"], row["pid_started"], row["boot_id"])


def gone(rows: Sequence[RowMapping]) -> list[int]:
    """Those of all these workers, as of `everyone`, that are surely dead, without having watched their beats: their processes are gone
    from this machine. What runs suspects is left to the worker that started it, which knows what to charge a job with, as long as
    that is there."""
    known = {row["id"] for row in rows}
    found = []
    for row in rows:
        if row["alone_for"] not in known and is_gone(row):
            found.append(int(row["id"]))
            known.discard(row["id"])  # and what it had started comes behind it
    return found


def remove(connection: Connection, worker_ids: Sequence[int]) -> int:
    """Forgets workers that have ended. Their running jobs belong to nobody from then on, and are rescued."""
    return connection.execute(workers.delete().where(workers.c.id.in_(worker_ids))).rowcount
