"""`truckllm run FILE`: the whole job in one command: submit, work (on the local stack) or watch, write results and costs.

It does none of these itself; it puts them in order and says what happens.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from models import plugins
from models.config import Config
from models.config_file import load_config
from models.crew import Plan
from models.database import Database, home, home_path, open_database, storage_errors
from models.errors import StorageError
from models.formats.form import Form
from models.money import DEFAULT_CURRENCY
from models.permissions import exposed
from models.processes import end_signals
from models.store import ledger, outcomes, reruns
from models.wording import counted, duration
from submit import bell, shapes
from submit.batch_options import BatchOptions
from submit.cli.inputs import InputArgument, takes_batch_options
from submit.cli.options import ConfigOption, CurrencyOption, FormatOption, JsonOption, MaxCostOption, NewOption, cap
from submit.cli.output import note, print_json, print_table, terminal_width
from submit.cli.vigil import GivenUpError, Vigil
from submit.damages import told_errors
from submit.disk import check_target
from submit.exports import STDOUT, Exported, export, kept_sentence
from submit.lines import failures, fitted
from submit.live import LiveView
from submit.obstacles import NO_KEY, resume_command
from submit.producer import Progress, Submitted, submit_with
from submit.progress import Snapshot, watch
from submit.reports import DEFAULT_BY, as_table, report
from submit.result_files import default_paths
from submit.stack import WORKER_LOG, Stack, local_stack

INTERRUPTED = 130
COUNT_LINES = 20_000
"""A longer input is told about while it is read."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one run is asked to do. `out`: None for the default path, "-" for stdout."""

    source: str
    out: str | None = None
    options: BatchOptions = BatchOptions()
    new: bool = False
    form: Form = Form.JSONL
    as_json: bool = False
    cap: tuple[int, str] | None = None


@takes_batch_options
def run(
    file: InputArgument,
    *,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            help="Where the results go; - is stdout. Else beside the input: prompts.jsonl gives prompts.results.jsonl; stdin "
            "gives batch-N.results.jsonl here.",
        ),
    ] = None,
    config: ConfigOption = None,
    options: BatchOptions,
    form: FormatOption = Form.JSONL,
    max_cost: MaxCostOption = None,
    currency: CurrencyOption = DEFAULT_CURRENCY,
    new: NewOption = False,
    json: JsonOption = False,
) -> None:
    """Do the whole job: submit FILE, work on it, write the results and a cost report.

    Without a Redis URL in the configuration it starts what it needs and ends it again; with one, workers elsewhere do the
    work. The same command goes on with a batch that was interrupted, and writes the results of one that is completed again. Exit codes: 0 all succeeded, 1 some jobs failed, 2 bad
    usage or input, 3 blocked (no usable key) or paused, 4 disk or database, or the books don't add up, 130 interrupted. --json: the fields of `status BATCH --json`,
    and {found (as of `submit`), seconds, results: {path, lines, succeeded, failed, cancelled} or null when exit code 3 or 4, calls, unknown_calls (maybe
    billed), unpriced_calls}.
    """
    if json and out == STDOUT:
        raise typer.BadParameter("--json and -o - would write into each other")
    job = Job(file, out, options, new, form, json, cap(max_cost, currency))
    settings = load_config(config, secrets=True)
    for sentence, mend in exposed(settings.path, home_path()):
        note(f"warning: {sentence}; `{mend}`")
    raise typer.Exit(do(job, settings))


def do(job: Job, config: Config, kind: type[Run] | None = None) -> int:
    """Does the job; the exit code. Raises TruckError. Only for the main thread, because it starts processes."""
    kind = kind or Run
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if job.out != STDOUT:
        check_target(
            Path(job.out) if job.out else next(default_paths(0, job.source, limit=job.options.limit)), job.source
        )
    with interruptible():
        if config.redis_url is not None:
            return kind(job, config, console, None).to_the_end()
        here = tuple(provider.id for provider in config.providers if plugins.claimed(provider))
        plan = Plan.of(config, providers=here, log=home() / WORKER_LOG)
        with local_stack(home(), plan) as stack:
            run = kind(job, config, console, stack)
            try:
                return run.to_the_end()
            except KeyboardInterrupt:
                if not run.interrupted:
                    raise
                stack.stop(0)  # the second one: it must not be taken for the first by who waits for the workers
                return INTERRUPTED


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal end the block as Ctrl-C does, so that its own ends are tidy; under nohup a closed terminal doesn't."""
    numbers = [number for number in end_signals() if number != signal.SIGINT]  # that one does so already
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Run:
    """One run: the batch, who works on it, and what has been said already."""

    def __init__(self, job: Job, config: Config, console: Console, stack: Stack | None) -> None:
        self.job = job
        self.config = config
        self.console = console
        self.stack = stack
        self.interrupted = False
        self._started = time.monotonic()

    def to_the_end(self) -> int:
        """The exit code."""
        database = open_database(self.config.database_url)
        try:
            with told_errors(database):
                vigil = Vigil(database, self.config, self.stack, self._tell)
                code = self._submit_and_watch(database, vigil)
                vigil.end()
                return code
        finally:
            database.close()

    def _submit_and_watch(self, database: Database, vigil: Vigil) -> int:
        with self._counting() as progress:
            submitted = self._submit(database, progress)
        batch_id = submitted.batch_id
        for warning in submitted.warnings:
            self._tell(f"note: {warning}")
        try:
            with storage_errors(database), database.read() as connection:
                lanes = outcomes.queued_lanes(connection, batch_id)
            vigil.begin(batch_id, lanes)
            self._wake(database, lanes, submitted.total)
            with LiveView(self.console) as view:
                end = watch(
                    database,
                    batch_id,
                    config=self.config,
                    on_tick=lambda seen: view.show(vigil.tick(seen)),
                    on_error=vigil.unreadable,
                    interval=0.25,
                )
        except KeyboardInterrupt:
            self.interrupted = True
            self._say_interrupted(batch_id)
            return INTERRUPTED
        except GivenUpError as error:
            self._tell(f"truckllm: {error}")
            return StorageError.exit_code
        return self._finish(database, end, submitted.found)

    def _submit(self, database: Database, progress: Progress) -> Submitted:
        submitted = submit_with(
            self.job.options,
            self.job.source,
            config=self.config,
            cap=self.job.cap,
            database=database,
            new=self.job.new,
            ring=False,
            here=self.stack is not None,
            progress=progress,
        )
        found = {
            "new": "",
            "resumed": ", found again: this goes on with it",
            "completed": ", completed before: nothing is asked or paid again (--new asks everything anew)",
            "joined": ", just submitted by another",
        }
        self._tell(f"batch {submitted.batch_id}: {counted(submitted.total, 'job')}{found[submitted.found]}")
        return submitted

    @contextlib.contextmanager
    def _counting(self) -> Iterator[Callable[[str, int], None]]:
        """Tells of a long input while it is read."""
        status = self.console.status("reading") if self.console.is_terminal else None
        shown = False

        def progress(what: str, lines: int) -> None:
            nonlocal shown
            if status is not None and lines >= COUNT_LINES:
                status.update(f"{what}: {lines:,} lines")
                if not shown:
                    status.start()
                    shown = True
            if self.stack is not None:
                self.stack.tick()

        try:
            yield progress
        finally:
            if status is not None:
                status.stop()

    def _wake(self, database: Database, lanes: set[str], rows: int) -> None:
        """Rings for workers that are up already; one that starts later finds the jobs by itself."""
        redis_url = self.config.redis_url or (self.stack.redis_url if self.stack is not None else None)
        if redis_url is None:
            return
        with storage_errors(database), database.read() as connection:
            serving = bell.live_workers(connection, database.now(connection))
        numbers = bell.tickets(self.config, dict.fromkeys(lanes, rows), serving)
        wanted = {provider: number for provider, number in numbers.items() if provider in serving}
        failed = bell.ring(redis_url, wanted) if wanted else None
        if failed:
            self._tell(f"note: {failed}")

    def _finish(self, database: Database, end: Snapshot, found: str) -> int:
        exported = None
        if not end.stuck:
            exported = export(database, end.batch_id, self.job.out, form=self.job.form)
        with storage_errors(database), database.read() as connection:
            spent = ledger.spent(connection, DEFAULT_BY, batch_id=end.batch_id)
            repeatable = bool(end.failed and reruns.kinds(connection, end.batch_id, reruns.Which()))
            if end.failed and not end.failures:
                end = replace(end, failures=tuple(outcomes.failures(connection, end.batch_id)[1]))
        seconds = time.monotonic() - self._started
        if self.job.as_json:
            print_json({**shapes.batch(end), "found": found, **_rest(exported, spent, seconds)})
            return end.exit_code
        # stdout may carry the results themselves
        file = sys.stderr if self.job.out == STDOUT else sys.stdout
        costs = report(DEFAULT_BY, spent)
        columns, rows = as_table(costs)
        print("", file=file)  # noqa: T201
        print_table(columns, rows, numbers=columns[len(DEFAULT_BY) :], file=file)
        print(*costs.notes, "", _summary(end, exported, seconds, repeatable=repeatable), sep="\n", file=file)  # noqa: T201
        if self.job.options.limit is not None and end.succeeded:
            hint = f"a pilot: `truckllm estimate {self.job.source} --from {end.batch_id}` projects it to the whole file"
            print(hint, file=file)  # noqa: T201
        file.flush()
        return end.exit_code

    def _say_interrupted(self, batch_id: int) -> None:
        if self.stack is None or not self.stack.owner:
            self._tell(
                f"no longer watching; the workers go on with batch {batch_id}. The same `run` watches again, "
                f"`truckllm cancel {batch_id}` stops it"
            )
        else:
            self._tell(f"interrupted: the next `truckllm run` of this file goes on with batch {batch_id}")

    def _tell(self, sentence: str) -> None:
        self.console.print(sentence, markup=False)


def _rest(exported: Exported | None, spent: Sequence[ledger.Spent], seconds: float) -> dict[str, Any]:
    written = None
    if exported is not None:
        written = {
            "path": str(exported.path),
            "lines": exported.lines,
            "succeeded": exported.succeeded,
            "failed": exported.failed,
            "cancelled": exported.cancelled,
        }
    return {
        "seconds": round(seconds, 3),
        "results": written,
        "calls": sum(group.calls for group in spent),
        "unknown_calls": sum(group.unknown_calls for group in spent),
        "unpriced_calls": sum(group.unpriced_calls for group in spent),
    }


def _summary(end: Snapshot, exported: Exported | None, seconds: float, *, repeatable: bool) -> str:
    parts = [f"{end.succeeded:,} of {counted(end.total, 'job')} succeeded"]
    parts += [f"{end.empty:,} of them with an empty answer"] if end.empty else []
    parts += [f"{end.failed:,} failed"] if end.failed else []
    parts += [f"{end.cancelled:,} cancelled"] if end.cancelled else []
    lines = [f"batch {end.batch_id}: {', '.join(parts)}, {duration(seconds)}"]
    if exported is not None and exported.path is not None:
        lines.append(f"results: {exported.path}")
        lines += [kept_sentence(exported.kept)] if exported.kept else []
    if end.failed:
        width = terminal_width()
        lines += [f"  {text}" for text in failures(end, None if width is None else width - 2)]
        repeats = f", `truckllm rerun {end.batch_id}` repeats it" if repeatable else ""
        lines.append(
            f"`truckllm jobs {end.batch_id} --status failed` lists what failed{repeats}, "
            f"`truckllm jobs {end.batch_id} --export-failed FILE` writes it as an input"
        )
    if end.cancelled:
        lines.append(f"`truckllm rerun {end.batch_id} --status cancelled` puts the cancelled jobs back into the queue")
    if end.problem:
        lines.append(f"not completed, because its books don't add up: {end.problem}")
        lines.append(
            f"`truckllm verify {end.batch_id}` names the jobs, and completes the batch once it is mended; "
            f"`truckllm results {end.batch_id}` writes what is there"
        )
    if end.paused:
        lines.append(f"paused: {end.paused}")
        lines.append(
            f"{resume_command(end.batch_id, end.paused)} lets it go on, then the same `run` does; "
            f"`truckllm results {end.batch_id}` writes what is there so far"
        )
    if end.blocked:
        lines.append(f"blocked: {fitted(end.blocked, terminal_width())}")
        ready = (
            "`truckllm keys` shows the keys. Once one is usable again"
            if NO_KEY in end.blocked
            else "Once that is mended"
        )
        lines.append(f"{ready}, the same `run` goes on; `truckllm results {end.batch_id}` writes what is there so far")
    return "\n".join(lines)
