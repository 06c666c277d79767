"""Results as a file: one line a job, in input order, in the dialect it came in; written beside and renamed when it is whole.

It does not shape the lines; `models.formats.results` does.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard
from sqlalchemy.engine import RowMapping

from models.database import Database, storage_errors
from models.errors import StorageError, UsageError
from models.formats.results import Outcome, result_line
from models.states import BatchStatus, JobStatus
from models.store import batches, outcomes

STDOUT = "-"
_BUFFER = 1024 * 1024
_INPUTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: `path` is None for stdout. `unfinished` lines stand for jobs that are still queued or running."""

    path: Path | None
    succeeded: int
    failed: int
    cancelled: int
    unfinished: int

    @property
    def lines(self) -> int:
        return self.succeeded + self.failed + self.cancelled + self.unfinished


def export(database: Database, batch_id: int, out: str | Path | None = None, *, partial: bool = False) -> Exported:
    """Writes a batch's results to `out` ("-" is stdout; None is `default_path`), replacing what is there.

    An unfinished batch is written only with `partial`; its open jobs get lines that say so. Memory doesn't grow with the batch.
    Raises NotFoundError, UsageError (unfinished, or `out` is a folder), StorageError (disk or database; nothing is lost then,
    and what was at `out` is untouched).
    """
    with storage_errors(database), database.read() as connection:
        batch = batches.get(connection, batch_id)
    if batch["finished_at"] is None and not partial:
        raise UsageError(f"batch {batch_id} is {batch['status']}: its results aren't final yet")
    path = default_path(batch_id, batch["input_name"]) if out is None else out
    with storage_errors(database):
        if str(path) == STDOUT:
            counts = _write(sys.stdout.buffer, database, batch_id)
    if batch["status"] == BatchStatus.DELETING:
        raise UsageError(f"batch {batch_id} is being deleted: `truckllm delete {batch_id}` goes on with that")
            sys.stdout.buffer.flush()
            return _exported(None, counts)
        # a link stays a link; /dev/stdout is to be written to, wherever it points
        target = Path(path) if str(path).startswith("/dev/") else Path(os.path.realpath(path))
        if str(target) == os.path.realpath(batch["input_name"]):
            raise UsageError(f"{path} is the batch's input: write the results to another file")
        with _replacing(target, batch_id) as stream:
            counts = _write(stream, database, batch_id)
    return _exported(Path(path), counts)


def default_path(batch_id: int, input_name: str) -> Path:
    """Where results go when nobody says: prompts.jsonl → prompts.results.jsonl beside it, here if that folder isn't here."""
    if input_name in ("-", ""):
        return Path(f"batch-{batch_id}.results.jsonl")
    source = Path(input_name)
    name = source.name.removesuffix(".gz").removesuffix(".zst")
    stem = Path(name).stem if Path(name).suffix in _INPUTS else name
    name = f"{stem}.results.jsonl"
    return source.parent / name if source.parent.is_dir() else Path(name)


def _exported(path: Path | None, counts: Counter[str]) -> Exported:
    return Exported(
        path,
        succeeded=counts.pop(JobStatus.SUCCEEDED, 0),
        failed=counts.pop(JobStatus.FAILED, 0),
        cancelled=counts.pop(JobStatus.CANCELLED, 0),
        unfinished=counts.total(),
    )


def _write(stream: BinaryIO, database: Database, batch_id: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    unpack = zstandard.ZstdDecompressor().decompressobj
    for row in _rows(database, batch_id):
        stream.write(
            result_line(
                Outcome(
                    custom_id=row["custom_id"],
                    dialect=row["dialect"],
                    status=row["status"],
                    body=bytes(row["body"] or b""),
                    text=None if row["text"] is None else unpack().decompress(row["text"]).decode("utf-8", "replace"),
                    response=None if row["response"] is None else unpack().decompress(row["response"]),
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
            )
        )
        counts[row["status"]] += 1
    return counts


def _rows(database: Database, batch_id: int) -> Iterator[RowMapping]:
    after = -1
    while True:
        with database.read() as connection:
            page = outcomes.page(connection, batch_id, after)
        if not page:
            return
        yield from page
        after = page[-1]["position"]


@contextlib.contextmanager
def _replacing(target: Path, batch_id: int) -> Iterator[BinaryIO]:
    """A stream into a new file beside `target`, which takes its place at the end of the block or leaves no trace."""
    try:
        kind = target.stat().st_mode
    except OSError:
        kind = stat.S_IFREG
    if stat.S_ISDIR(kind):
        raise UsageError(f"{target} is a folder: name a file in it with -o")
    beside = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        if not stat.S_ISREG(kind) or str(target).startswith("/dev/"):  # a pipe or a device has no beside
            with open(target, "wb", buffering=_BUFFER) as stream:
                yield stream
            return
        with open(beside, "xb", buffering=_BUFFER) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise StorageError(
            f"{target}: {error.strerror or error}. Nothing is lost: `truckllm results {batch_id} -o FILE` writes the results "
            "again, wherever there is room"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes the new name last through a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
