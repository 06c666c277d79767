"""Loading an input as a batch: found or made, filled in chunks under status `loading`, published when it is whole.

It does not judge lines: they have been read once before (`submit.producer.check`), and must be the same now.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from models import processes
from models.database import Database
from models.errors import BadLine, ConflictError
from models.formats.lines import Line
from models.formats.reading import SkippedLine
from models.lanes import Lanes
from models.states import UNFINISHED, BatchStatus
from models.store import batches, budgets, loads
from models.store.batches import NewJob
from submit.batch_options import BatchOptions
from submit.identity import changed
from submit.source import Source

CHUNK_ROWS = 2000
CHUNK_BYTES = 8 * 1024 * 1024
"""One write holds SQLite's only writer: so many rows take 0.1 to 0.2 s."""

_WAIT_SECONDS = 0.25
_LONGEST_VALUE = 300
"""Most characters of an option's value in a message: a schema may be long."""


@dataclass(frozen=True, slots=True)
class Order:
    """A checked submission; `total` is how many jobs it makes. `renamed`: the name isn't just the input's own."""

    sha256: str
    options: BatchOptions
    name: str
    input_name: str
    priority: int
    total: int
    new: bool
    renamed: bool = False
    cap: tuple[int, str] | None = None
    """What the batch may cost at most: nano-units and their currency."""
    traced: bool = False
    """Each job makes one call, which is kept."""

    @property
    def options_hash(self) -> str:
        return hashlib.sha256(self.options.stored().encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Load:
    """A batch that is ours to load under this mark; `done` jobs are in it already."""

    batch_id: int
    loader: str
    done: int


@dataclass(frozen=True, slots=True)
class Found:
    """A batch of the same input and options that is loaded, and so goes on, or has ended already. `paused` is why it waits, unless a
    new cap has just answered that."""

    batch_id: int
    total: int
    status: BatchStatus
    paused: str | None = None

    @property
    def finished(self) -> bool:
        return self.status not in UNFINISHED


def begin(database: Database, order: Order) -> Load | Found | None:
    """The batch for this order: found (also one that is completed), taken over from a loader that died, or made.

    None, after a short wait, while another process loads it or has just made it: ask again. Raises ConflictError.
    """
    loader = _mark()
    try:
        with database.write() as connection:
            now = database.now(connection)
            same = batches.same_file(connection, order.sha256)
            unfinished = [row for row in same if row["status"] in UNFINISHED]
            if not order.new:
                alike = [row for row in same if row["options_hash"] == order.options_hash]
                mine = next((row for row in alike if row["status"] in UNFINISHED), None)
                done = next((row for row in alike if row["status"] == BatchStatus.COMPLETED), None)
                if mine is None and done is not None:  # who asks again may have died before the answers were written
                    return Found(done["id"], done["total"], BatchStatus.COMPLETED)
                if mine is None and unfinished:
                    raise _conflict(order, unfinished[0])
                if mine is not None and mine["status"] != BatchStatus.LOADING:
                    if order.cap:
                        budgets.cap(connection, mine["id"], *order.cap)
                    paused = None if order.cap else mine["paused_reason"]
                    return Found(mine["id"], mine["total"], BatchStatus(mine["status"]), paused)
                if mine is not None:
                    if has_died(mine["loader"] or ""):
                        batches.release(connection, mine["id"], mine["loader"])
                    there = batches.take_over(connection, mine["id"], loader, now)
                    if there is not None:
                        if order.cap:  # before it is published
                            budgets.cap(connection, mine["id"], *order.cap)
                        return Load(mine["id"], loader, there)
            if order.new or mine is None:
                batch_id = batches.create(
                    connection,
                    name=order.name,
                    input_name=order.input_name,
                    sha256=order.sha256,
                    options_hash=order.options_hash,
                    defaults=order.options.stored(),
                    priority=order.priority,
                    again=same[0]["id"] if order.new and same else 0,
                    loader=loader,
                    no_fallback=order.options.no_fallback,
                    empty_answers=order.options.empty_answers,
                    traced=order.traced,
                    now=now,
                )
                if order.cap:
                    budgets.cap(connection, batch_id, *order.cap)
                return Load(batch_id, loader, 0)
    except IntegrityError:
        return None  # two made it at once, and the index has decided
    time.sleep(_WAIT_SECONDS)
    return None


def fill(
    database: Database,
    order: Order,
    load: Load,
    source: Source,
    lanes: Lanes,
    progress: Callable[[str, int], None] | None,
) -> bool:
    """Stores the jobs that aren't there yet and publishes the batch. False when it isn't ours any more: begin again.

    What an interrupted load has left must be what would be stored now (the configuration may have changed since); else it is
    thrown away. Raises InputError, and leaves nothing behind, when the input isn't what was checked; whatever else stops it leaves a load
    that the next submission of the same input goes on with.
    """
    position = 0
    try:
        with source.open() as (stream, identity):
            for chunk in _chunks(order.options.lines(stream, lanes)):
                position = chunk[-1].position + 1
                there = [job for job in chunk if job.position < load.done]
                if there and not _holds(database, load, there):
                    _discard(database, load)
                    return False
                fresh = chunk[len(there) :]
                with database.write() as connection:  # also without new jobs: it shows that this loader lives
                    if not batches.add_jobs(connection, load.batch_id, load.loader, fresh, database.now(connection)):
                        return False
                if progress:
                    progress("loading", position)
            same = identity.sha256() == order.sha256
        if not same or position != order.total:
            raise _Changed
        with database.write() as connection:
            return batches.publish(connection, load.batch_id, load.loader)
    except _Changed:
        _discard(database, load)
        raise changed(source.shown) from None
    except BaseException:
        with contextlib.suppress(SQLAlchemyError), database.write() as connection:
            batches.release(connection, load.batch_id, load.loader)
        raise


class _Changed(Exception):
    """The input isn't what was checked."""


def _chunks(lines: Iterator[Line | BadLine | SkippedLine]) -> Iterator[list[NewJob]]:
    chunk: list[NewJob] = []
    room = CHUNK_BYTES
    for position, line in enumerate(line for line in lines if not isinstance(line, SkippedLine)):
        if isinstance(line, BadLine):
            raise _Changed
        size = len(line.body) + len(line.metadata or b"")
        if chunk and (len(chunk) >= CHUNK_ROWS or size > room):
            yield chunk
            chunk, room = [], CHUNK_BYTES
        room -= size
        chunk.append(
            NewJob(
                position,
                line.custom_id,
                line.lane,
                line.model,
                line.body,
                line.dialect,
                line.operation,
                line.refused,
                line.metadata,
            )
        )
        if room <= 0:  # written before the next line is read: memory holds one large line at a time
            yield chunk
            chunk, room = [], CHUNK_BYTES
    if chunk:
        yield chunk


def _holds(database: Database, load: Load, there: list[NewJob]) -> bool:
    with database.read() as connection:
        return loads.holds(connection, load.batch_id, there)


def _discard(database: Database, load: Load) -> None:
    with database.write() as connection:
        batches.cancel(connection, load.batch_id)
    gone = False
    while not gone:
        with database.write() as connection:
            gone = loads.discard(connection, load.batch_id, load.loader)


def _mark() -> str:
    """Who loads: machine and boot, process, its start, and something unique; so that others can see that it has died."""
    pid = os.getpid()
    return f"{_machine()} {pid} {processes.started(pid)} {secrets.token_hex(4)}"


def has_died(loader: str) -> bool:
    """Whether that process was one of this machine and is gone. What can't be known is no."""
    machine, _, rest = loader.partition(" ")
    pid, _, rest = rest.partition(" ")
    if machine != _machine() or not pid.isdigit():
        return False
    return str(processes.started(int(pid))) != rest.partition(" ")[0]


def _machine() -> str:
    return hashlib.sha256(f"{processes.host()} {processes.boot_id()}".encode()).hexdigest()[:12]


def _conflict(order: Order, old: RowMapping) -> ConflictError:
    there, here = differences(old["defaults"], order.options.stored())
    return ConflictError(
        f"batch {old['id']} ({old['status']}) works on the same input with other options ({there}; now {here}). Go on with it by "
        f"giving the same options, stop it with `truckllm cancel {old['id']}`, or pay for both with --new"
    )


def differences(old: str, new: str) -> tuple[str, str]:
    """Returns those options of two batches, as stored, that differ: the old ones and the new ones, for people."""
    there, here = json.loads(old), json.loads(new)
    names = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    return _shown(names, there), _shown(names, here)


def _shown(names: Sequence[str], options: Mapping[str, Any]) -> str:
    def shown(value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "…"

    def absent(name: str) -> str:
        return f"with {name.removeprefix('no_')}" if name.startswith("no_") else f"no {name}"

    return ", ".join(f"{name}: {shown(options[name])}" if name in options else absent(name) for name in names)
