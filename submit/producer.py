"""submit_batch: reads and checks an input, loads it as a batch that appears all at once, and wakes the workers.

It is the one way in, for the command line, the HTTP API and Python. It makes no call to any provider.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Unpack

from models.config import Config
from models.config_file import load_config
from models.database import Database, open_database, storage_errors
from models.errors import BadLine, ConfigError, ConflictError, InputError, NotFoundError
from models.formats.lines import Line
from models.formats.reading import Note, SkippedLine, sentence
from models.lanes import Lanes
from models.money import format_money, parse_cap
from models.plugins import unclaimed_in
from models.request import SIMPLE
from models.states import BatchStatus
from models.store import batches, outcomes
from models.wording import counted
from submit import bell, caps, lookalikes
from submit.batch_options import BatchOptions, Given, checked_priority
from submit.causes import Causes, sentences
from submit.loading import Found, Load, Order, begin, differences, fill
from submit.obstacles import resume_command
from submit.price_sources import price_notes
from submit.shutdowns import shutdowns
from submit.source import Input, Source, opened

SHOWN_BAD_LINES = 20
SHOWN_SKIPPED = 3
SHOWN_NOTES = 12
_TICK_LINES = 5000

Progress = Callable[[str, int], None]
"""Called now and then with "checking" or "loading" and the number of lines so far."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a submission.

    `found` is "new", "resumed" (an unfinished batch of the same file and options was there, and goes on unless it is `paused`), "completed"
    (one that is completed was there: nothing was enqueued) or "joined" (another process was submitting the very same at this moment).
    `warnings` are sentences for people.
    """

    batch_id: int
    total: int
    found: Literal["new", "resumed", "completed", "joined"]
    warnings: tuple[str, ...] = ()
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """What reading an input once has shown: its hash, how many jobs go to each lane, and what people should be told.

    `refused` counts the lines that become failed jobs. `models` are the (lane, model) pairs of the others, in order; `unbounded` counts
    by them the lines without a bound on their output, if that was asked for.
    """

    sha256: str
    lanes: Mapping[str, int]
    refused: int = 0
    warnings: tuple[str, ...] = ()
    models: tuple[tuple[str, str], ...] = ()
    unbounded: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.lanes.values()) + self.refused


def submit_batch(
    source: Input,
    *,
    config: Config | str | Path | None = None,
    database: Database | str | None = None,
    name: str | None = None,
    priority: int = 0,
    new: bool = False,
    ring: bool = True,
    progress: Progress | None = None,
    max_cost: str | None = None,
    **given: Unpack[Given],
) -> Submitted:
    """Puts an input into the queue: a path ("-" is stdin), an open binary file, or an iterable of dicts, one a line.

    All lines are read and checked before anything is stored, and nothing is visible before all of them are stored. The same
    input with the same options finds its batch, also a load that was interrupted, and one that is completed: nothing is paid twice.

    `given` are the options that make it another batch. `model` is asked for instead of every line's own; `provider` or `route` is
    for lines that name neither; with `no_fallback` nothing but the first choice is asked. `limit` takes only so many lines,
    `template` ("Translate: {text}") makes prompts of a table's rows, `sheet` names
    a workbook's sheet, `encoding` that of a text that isn't UTF-8; `system`, `max_tokens`, `temperature` and
    `schema` (a JSON schema, or its file) are filled into simple lines that don't say them; with `skip_invalid` bad lines become
    failed jobs; `empty_answers` is what to do with a whole answer that holds nothing: "keep", "retry" or "fail"; `empty_prompts` ("fail", "skip", "ask"), `unknown_fields` ("fail", "metadata", "send") and `last_answer` ("drop", "send")
    are the command line's options of these names.

    These don't: `name`, `priority` (higher goes first) and `max_cost` ("20 USD": pause before the batch costs more). `new` makes
    a new batch in any case. `ring` wakes workers where a Redis URL is configured.

    `config` and `database` are read and opened as the command line does when they are None or a path or URL.
    Raises InputError (bad lines, an empty or unreadable input, one that changed meanwhile), UsageError, ConflictError (the same
    input is unfinished with other options), ConfigError, StorageError.
    """
    return submit_with(
        BatchOptions.of(**given),
        source,
        config=config,
        database=database,
        name=name,
        priority=priority,
        new=new,
        ring=ring,
        progress=progress,
        cap=parse_cap(max_cost),
    )


def submit_with(
    options: BatchOptions,
    source: Input,
    *,
    config: Config | str | Path | None = None,
    database: Database | str | None = None,
    name: str | None = None,
    priority: int = 0,
    new: bool = False,
    ring: bool = True,
    here: bool = False,
    progress: Progress | None = None,
    cap: tuple[int, str] | None = None,
    largest_unpacked: int | None = None,
    traced: bool = False,
) -> Submitted:
    """`submit_batch` for options that are at hand already. `here`: this machine works on it, so it needs the plugins for it.
    `largest_unpacked`: how many bytes an archive may hold; None: any number. `traced`: each
    job makes one call, whose request and reply are kept."""
    settings = config if isinstance(config, Config) else load_config(config, secrets=False)
    lanes = Lanes(settings)
    with opened(
        source,
        options.template,
        ask_empty=options.asks_empty,
        sheet=options.sheet,
        encoding=options.encoding,
        most=largest_unpacked,
    ) as given:
        checked = check(given, lanes, options, progress=progress, bounds=cap is not None)
        strangers = unclaimed_in(settings, checked.lanes)
        if strangers and here:
            raise ConfigError(f"{strangers[0]}. Nothing was enqueued")
        checked = replace(checked, warnings=(*checked.warnings, *strangers))
        order = Order(
            sha256=checked.sha256,
            options=options,
            name=_shown(_storable(name or _short(given)))[:200],
            renamed=bool(name),
            input_name=_storable(given.name)[:4000],
            priority=checked_priority(priority),
            total=checked.total,
            new=new,
            cap=cap,
            traced=traced,
        )
        store = database if isinstance(database, Database) else open_database(database or settings.database_url)
        try:
            with storage_errors(store):
                return _submit(store, settings, lanes, given, order, checked, ring, progress)
        finally:
            if store is not database:
                store.close()


def _storable(text: str) -> str:
    """A name that any database takes; a file's may hold bytes that are no UTF-8."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _shown(text: str) -> str:
    """A name that does nothing to the terminals of those who look at it."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(one) == "Cc" else one for one in text)


def check(
    source: Source,
    lanes: Lanes,
    options: BatchOptions = BatchOptions(),  # noqa: B008 - frozen
    *,
    progress: Progress | None = None,
    bounds: bool = False,
) -> Checked:
    """Reads an input once; needs no server. With `bounds` it counts the lines whose output nothing bounds. Raises InputError with the
    first bad lines and their number."""
    good: Counter[str] = Counter()
    unbounded: Counter[tuple[str, str]] = Counter()
    dialects: Counter[str] = Counter()
    models: set[tuple[str, str]] = set()
    shown: list[BadLine] = []
    causes = Causes()
    notes: Counter[Note] = Counter()
    bad = skipped = 0
    is_bad_from_the_start = False
    with source.open() as (stream, identity):
        for number, line in enumerate(options.lines(stream, lanes), 1):
            if isinstance(line, SkippedLine):
                skipped += 1
                continue
            reason = line.reason if isinstance(line, BadLine) else line.refused
            if reason is not None:
                bad += 1
                causes.add(line.number, reason)
                is_bad_from_the_start = is_bad_from_the_start or number == 1
                if len(shown) < SHOWN_BAD_LINES:
                    shown.append(BadLine(line.number, reason))
            elif isinstance(line, Line):
                good[line.lane] += 1
                dialects[line.dialect] += 1
                models.add((line.lane, line.model))
                if bounds and caps.is_unbounded(line):
                    unbounded[line.lane, line.model] += 1
                notes.update(line.notes)
            if progress and number % _TICK_LINES == 0:
                progress("checking", number)
        sha256 = identity.sha256()
    if bad and not (options.skip_invalid and good):
        if is_bad_from_the_start and (instead := _told_apart(source)):
            raise InputError(instead)
        raise InputError(
            f"{source.shown}: {bad:,} of {counted(bad + good.total(), 'line')} can't become "
            f"{'a job' if bad == 1 else 'jobs'}; nothing was enqueued",
            shown,
            bad,
            causes.found(),
        )
    if not good and skipped:
        raise InputError(f"{source.shown}: nothing is left to ask: {_skipped(skipped)}; nothing was enqueued")
    if not good:
        raise InputError(f"{source.shown} is empty: it needs at least one line that isn't blank")
    warnings = [*source.notes]
    if bad:
        first = "; ".join(sentences(causes.found()[:SHOWN_SKIPPED], bad))
        warnings.append(
            f"{counted(bad, 'line')} can't be sent, and {'counts' if bad == 1 else 'count'} as failed ({first})"
        )
    if skipped:
        warnings.append(_skipped(skipped))
    warnings += [sentence(note, count) for note, count in notes.most_common(SHOWN_NOTES)]
    if len(notes) > SHOWN_NOTES:
        warnings.append(f"… and {len(notes) - SHOWN_NOTES:,} more notes of this kind")
    if (own := good.total() - dialects[SIMPLE]) and (given := options.defaults.given()):
        warnings.append(
            f"{counted(own, 'line')} in a vendor's own form {'goes as it is' if own == 1 else 'go as they are'}: {', '.join(given)} of the batch isn't filled in"
        )
    return Checked(sha256, dict(good), bad, tuple(warnings), tuple(sorted(models)), unbounded)


def _skipped(count: int) -> str:
    have, are = ("has", "is") if count == 1 else ("have", "are")
    return f"{counted(count, 'line')} {have} an empty prompt and {are} skipped: no row in the results"


def _told_apart(source: Source) -> str | None:
    """What the input is, if it is no JSON lines at all."""
    with source.open() as (stream, _):
        read = getattr(stream, "read", None)  # the rows of a table have no bytes of their own
        return None if read is None else lookalikes.told(read(lookalikes.HEAD), source.shown)


def _submit(
    database: Database,
    settings: Config,
    lanes: Lanes,
    source: Source,
    order: Order,
    checked: Checked,
    ring: bool,
    progress: Progress | None,
) -> Submitted:
    warnings: list[str] = []
    joined = False
    while True:
        found = begin(database, order)
        if found is None:
            joined = True  # somebody else loads it; `begin` has waited a little
            continue
        if not isinstance(found, Load):
            break
        if found.done == 0:
            warnings = _paid_before(database, order, found.batch_id)
        if fill(database, order, found, source, lanes, progress):
            break
        _say_if_cancelled(database, found.batch_id)
    if isinstance(found, Found) and found.finished:
        if order.priority or order.renamed or order.cap:
            warnings.append(f"batch {found.batch_id} is completed: name, priority and cap of now change nothing")
        return Submitted(found.batch_id, found.total, "completed", (*warnings, *settings.warnings))
    if not isinstance(found, Load) or found.done:
        warnings += _unheard(database, order, found.batch_id)
    warnings += [*checked.warnings, *settings.warnings]
    # what was just stored is known; what was found may have been stored under another configuration, and be done in part
    used = checked.models if isinstance(found, Load) else _waiting_models(database, found.batch_id)
    warnings += shutdowns(settings, used)
    warnings += price_notes(settings, used, capped=order.cap is not None)
    warnings += [] if order.cap is None else [caps.exactness(settings, checked.unbounded)]
    if ring and settings.redis_url:
        warnings += call_workers(database, settings, checked.lanes, settings.redis_url)
    if isinstance(found, Load):
        return Submitted(found.batch_id, order.total, "new" if found.done == 0 else "resumed", tuple(warnings))
    paused = found.status == BatchStatus.PAUSED
    if paused:
        warnings.append(
            f"batch {found.batch_id} is paused: {resume_command(found.batch_id, found.paused)} lets it go on"
        )
    return Submitted(found.batch_id, found.total, "joined" if joined else "resumed", tuple(warnings), paused)


def _waiting_models(database: Database, batch_id: int) -> list[tuple[str, str]]:
    with database.read() as connection:
        return [(lane, model) for _, lane, model in outcomes.open_models(connection, batch_id)]


def call_workers(database: Database, config: Config, rows: Mapping[str, int], redis_url: str) -> list[str]:
    """Wakes the workers for so many queued jobs by lane. Warnings: which providers no live worker serves, what failed."""
    with storage_errors(database), database.read() as connection:
        serving = bell.live_workers(connection, database.now(connection))
    numbers = bell.tickets(config, rows, serving)
    warnings = [
        f"no live worker serves {provider}: start one with `truckllm worker`"
        for provider in numbers
        if provider not in serving
    ]
    failed = bell.ring(redis_url, numbers)
    return warnings + ([failed] if failed else [])


def _short(source: Source) -> str:
    if source.name == "-":
        return source.shown.removeprefix("the ")
    return Path(source.name).name.replace("\0", "") or "input"


def _paid_before(database: Database, order: Order, batch_id: int) -> list[str]:
    """A sentence on the newest finished batch of the same input, if it made calls: this one pays for all of it again.

    One of the same options goes before one of others.
    """
    with database.read() as connection:
        ended = [
            row
            for row in batches.same_file(connection, order.sha256)
            if row["id"] != batch_id and row["status"] in (BatchStatus.COMPLETED, BatchStatus.CANCELLED)
        ]
        for row in sorted(ended, key=lambda row: row["options_hash"] != order.options_hash):
            counts = batches.counts(connection, row["id"])
            spend = batches.spend(connection, row["id"])
            if spend:
                break
        else:
            return []
    nanos: Counter[str] = Counter()
    for part in spend:
        if part["currency"]:
            nanos[part["currency"]] += int(part["cost_nanos"])
    cost = " + ".join(format_money(value, currency) for currency, value in sorted(nanos.items())) or "unpriced"
    old = row["id"]
    other = ""
    if row["options_hash"] != order.options_hash:
        there, here = differences(row["defaults"], order.options.stored())
        other = f" with other options ({there}; now {here})"
    is_cancelled = row["status"] == BatchStatus.CANCELLED
    rest, what = (" --status cancelled", "was cancelled") if is_cancelled else ("", "failed")
    return [
        f"batch {old} did this input already{other} ({counts.succeeded:,} succeeded, {counts.failed:,} failed, {cost}), and "
        f"batch {batch_id} pays for all of it again. `truckllm results {old}` writes its results, "
        f"`truckllm rerun {old}{rest}` repeats only what {what}, `truckllm cancel {batch_id}` stops this one"
    ]


def _unheard(database: Database, order: Order, batch_id: int) -> list[str]:
    """What was asked for the batch that was found and isn't so: finding it changes neither name nor priority."""
    with database.read() as connection:
        row = batches.get(connection, batch_id)
    said = []
    if order.priority and row["priority"] != order.priority:
        said.append(
            f"batch {batch_id} was there already and keeps priority {row['priority']}: "
            f"`truckllm priority {batch_id} {order.priority if order.priority > 0 else f'-- {order.priority}'}` changes it"
        )
    if order.renamed and row["name"] != order.name:
        said.append(f"batch {batch_id} was there already and keeps its name, {row['name']!r}")
    return said


def _say_if_cancelled(database: Database, batch_id: int) -> None:
    """Raises ConflictError when that is why a load came to nothing. A load that is gone was thrown away as outdated."""
    with database.read() as connection, contextlib.suppress(NotFoundError):
        if batches.get(connection, batch_id)["status"] == BatchStatus.CANCELLED:
            raise ConflictError(f"batch {batch_id} was cancelled while it was being loaded")
