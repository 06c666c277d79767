"""Results as a file: one line a job, in input order, in the form that is asked for; written beside and renamed when it is whole.

It does not shape the lines; `models.formats.results` does. `submit.result_files` knows how the files are called.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import re
import secrets
import shlex
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sqlalchemy.engine import RowMapping

from models.database import Database, storage_errors
from models.errors import ConflictError, StorageError, UsageError
from models.formats.results import Form, Outcome, Writer, metadata_in
from models.packing import Unpacker
from models.states import BatchStatus, JobStatus
from models.store import batches, outcomes
from submit.result_files import default_paths, holds_all

STDOUT = "-"
_BUFFER = 1024 * 1024
_SENT = 256 * 1024
ABANDONED_SECONDS = 60.0
"""An unfinished file that was not written to for so long, and is not locked, belongs to an export that was killed."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: `path` is None for stdout. `unfinished` lines stand for jobs that are still queued or running.

    `kept` is the file of the usual name, if that holds other answers and so was left alone.
    """

    path: Path | None
    succeeded: int
    failed: int
    cancelled: int
    unfinished: int
    kept: Path | None = None

    @property
    def lines(self) -> int:
        return self.succeeded + self.failed + self.cancelled + self.unfinished


def export(
    database: Database,
    batch_id: int,
    out: str | Path | None = None,
    *,
    partial: bool = False,
    form: Form = Form.JSONL,
) -> Exported:
    """Writes a batch's results to `out` ("-" is stdout), replacing what is there, in `form`.

    Without `out` they go to the first of `default_paths` that isn't there, or holds no answer that they don't hold too. An
    unfinished batch is written only with `partial`; its open jobs get lines that say so. Memory doesn't grow with the batch.
    Raises NotFoundError, UsageError (unfinished, or `out` is a folder), StorageError (disk or database; nothing is lost then,
    and what was at `out` is untouched).
    """
    batch = _exported_from(database, batch_id)
    if batch["finished_at"] is None and not partial:
        raise UsageError(f"batch {batch_id} is {batch['status']}: its results aren't final yet")
    with storage_errors(database):
        if str(out) == STDOUT:
            counts = _write(sys.stdout.buffer, database, batch_id, form)
            sys.stdout.buffer.flush()
            return _exported(None, counts)
        if out is None:
            unfinished = batch["finished_at"] is None
            suffix = ".csv" if form is Form.CSV else ".jsonl"
            limit = json.loads(batch["defaults"]).get("limit")
            names = default_paths(batch_id, batch["input_name"], partial=unfinished, suffix=suffix, limit=limit)
        else:
            names = iter((Path(out),))
        first = next(names)
        target = resolved_target(first, batch, database)
        others = (target.with_name(path.name) for path in names) if out is None else None
        way_out = f"`truckllm results {batch_id} -o FILE` writes the results again, wherever there is room"
        with replacing(target, f"Nothing is lost: {way_out}", others) as new:
            counts = _write(new.stream, database, batch_id, form)
    if new.target == target:
        return _exported(first, counts)
    return _exported(new.target if first.is_symlink() else first.with_name(new.target.name), counts, kept=first)


def resolved_target(path: Path, batch: RowMapping, database: Database) -> Path:
    """Returns the file behind a path. Raises UsageError where that is the batch's input or the database."""
    # a link stays a link; /dev/stdout is to be written to, wherever it points
    target = path if str(path).startswith("/dev/") else Path(os.path.realpath(path))
    if _is_input(target, batch):
        raise UsageError(f"{path} is the batch's input: name another file")
    if _is_database(target, database):
        raise UsageError(f"{path} is the database itself: name another file")
    return target


def _is_input(target: Path, batch: RowMapping) -> bool:
    """Whether the file there is what the batch was made of, also where that was named from another folder."""
    named = str(batch["input_name"])
    if str(target) == os.path.realpath(named):
        return True
    if target.name != os.path.basename(named) or not target.is_file():
        return False
    with contextlib.suppress(OSError), open(target, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == str(batch["input_sha256"])
    return False


def kept_sentence(kept: Path) -> str:
    """What people should know when results went elsewhere."""
    return f"{kept} holds other answers and stays as it is; -o {kept} replaces it"


def _exported(path: Path | None, counts: Counter[str], kept: Path | None = None) -> Exported:
    return Exported(
        path,
        succeeded=counts.pop(JobStatus.SUCCEEDED, 0),
        failed=counts.pop(JobStatus.FAILED, 0),
        cancelled=counts.pop(JobStatus.CANCELLED, 0),
        unfinished=counts.total(),
        kept=kept,
    )


def stream(database: Database, batch_id: int, form: Form = Form.JSONL) -> Iterator[bytes]:
    """A batch's results, so far or final, in pieces of some lines. Memory doesn't grow with the batch.

    Raises NotFoundError and ConflictError (it is being deleted) at once, and these or StorageError from the iterator.
    """
    _exported_from(database, batch_id)
    return _gathered(_pieces(database, batch_id, form, Counter()))


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer pieces."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= _SENT:
            yield bytes(held)
            held.clear()
    yield bytes(held)


def _exported_from(database: Database, batch_id: int) -> RowMapping:
    with storage_errors(database), database.read() as connection:
        batch = batches.get(connection, batch_id)
    if batch["status"] == BatchStatus.DELETING:
        raise ConflictError(f"batch {batch_id} is being deleted: `truckllm delete {batch_id}` goes on with that")
    return batch


def _write(stream: BinaryIO, database: Database, batch_id: int, form: Form) -> Counter[str]:
    counts: Counter[str] = Counter()
    for piece in _pieces(database, batch_id, form, counts):
        stream.write(piece)
    return counts


def _pieces(database: Database, batch_id: int, form: Form, counts: Counter[str]) -> Iterator[bytes]:
    """The lines, some at a time; `counts` is told how the jobs ended."""
    writer = Writer(form)
    unpack = Unpacker()
    for page in _pages(database, batch_id, replies=writer.needs_replies):
        if not counts:
            yield writer.begin(metadata_in(row["body"] or b"", row["metadata"] or b"") for row in page)
        for row in page:
            counts[row["status"]] += 1
            try:
                outcome = _outcome(row, unpack)
            except ValueError:
                raise StorageError(
                    f"what is stored of {str(row['custom_id'])!r} is damaged: "
                    f"`truckllm rerun {batch_id} --status succeeded --id {shlex.quote(str(row['custom_id']))} --force` asks it again"
                ) from None
            yield writer.line(outcome)


def _outcome(row: RowMapping, unpack: Unpacker) -> Outcome:
    return Outcome(
        custom_id=row["custom_id"],
        dialect=row["dialect"],
        status=row["status"],
        body=bytes(row["body"] or b""),
        metadata=bytes(row["metadata"] or b""),
        text=None if row["text"] is None else unpack(row["text"]).decode("utf-8", "replace"),
        response=None if row["response"] is None else unpack(row["response"]),
        error_code=row["error_code"],
        error_message=row["error_message"],
        http_status=row["http_status"],
        request_id=row["request_id"],
        provider=row["provider"],
        key_id=row["key_id"],
        requested_model=row["requested_model"],
        served_model=row["served_model"],
        finish_reason=row["finish_reason"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cached_tokens=row["cached_tokens"],
        cost_nanos=row["cost_nanos"],
        currency=row["currency"],
        latency_ms=row["latency_ms"],
        attempts=row["attempts"],
        attempt_id=row["call_id"],
    )


def _is_database(target: Path, database: Database) -> bool:
    """Whether the file there is SQLite's, or one that it keeps beside; a server's database has a name and no file here."""
    if database.url.get_backend_name() != "sqlite" or not database.url.database:
        return False
    file = os.path.realpath(database.url.database)
    return str(target) in (file, f"{file}-wal", f"{file}-shm", f"{file}-journal")


def _pages(database: Database, batch_id: int, *, replies: bool) -> Iterator[list[RowMapping]]:
    after = -1
    while True:
        with database.read() as connection:
            page = outcomes.page(connection, batch_id, after, replies=replies)
        if not page:
            _exported_from(database, batch_id)  # what is deleted meanwhile must not pass for the end
            return
        yield page
        after = page[-1]["position"]


@dataclass(slots=True)
class _New:
    """A file on its way: `target` is where it goes in the end."""

    stream: BinaryIO
    target: Path


@contextlib.contextmanager
def replacing(target: Path, way_out: str, others: Iterable[Path] | None = None) -> Iterator[_New]:
    """Yields a new file beside `target`, which takes its place at the end of the block or leaves no trace.

    `others` are where it goes instead when the file at `target` holds what the new one doesn't; None: it goes there in any case.
    Raises StorageError, whose message ends with `way_out`.
    """
    try:
        kind = target.stat().st_mode
    except OSError:
        kind = stat.S_IFREG
    if stat.S_ISDIR(kind):
        raise UsageError(f"{target} is a folder: name a file in it with -o")
    beside = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    _remove_abandoned(target)
    try:
        if not stat.S_ISREG(kind) or str(target).startswith("/dev/"):  # a pipe or a device has no beside
            with open(target, "wb", buffering=_BUFFER) as stream:
                yield _New(stream, target)
            return
        with open(beside, "xb", buffering=_BUFFER) as stream:
            with contextlib.suppress(OSError):  # not every file system has locks
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new = _New(stream, target)
            yield new
            stream.flush()
            os.fsync(stream.fileno())
        if others is not None:
            new.target = next(path for path in itertools.chain((target,), others) if holds_all(beside, path))
        os.replace(beside, new.target)
        _sync_folder(target.parent)
    except OSError as error:
        raise StorageError(f"{target}: {error.strerror or error}. {way_out}") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _remove_abandoned(target: Path) -> None:
    """Removes what exports to `target` left behind when they were killed: unfinished files that no process holds a lock on, and that
    were last written over a minute ago (a new one is locked only after it was made)."""
    unfinished = re.compile(re.escape(target.name) + r"\.[0-9a-f]{8}\.part")
    with contextlib.suppress(OSError):
        for path in [one for one in target.parent.iterdir() if unfinished.fullmatch(one.name)]:
            with contextlib.suppress(OSError), open(path, "rb") as stream:
                if time.time() - os.fstat(stream.fileno()).st_mtime > ABANDONED_SECONDS:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()


def _sync_folder(folder: Path) -> None:
    """Makes the new name last through a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
